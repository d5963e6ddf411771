"""The sample of Envoy's configuration is made by the product, is one that Envoy takes, and fits the sample chains."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.harness.envoy import validates
from policy_engine.cli import main

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "configs" / "envoy.yaml"
CHAINS = ("--chains", str(ROOT / "configs" / "chains.yaml"), "--policies-directory", str(ROOT / "policies"))


def test_envoy_accepts_the_sample(tmp_path: Path) -> None:
    accepted, said = validates(SAMPLE, tmp_path)
    assert accepted, said


def test_envoy_refuses_a_misspelt_sample(tmp_path: Path) -> None:
    misspelt = tmp_path / "envoy.yaml"
    misspelt.write_text(SAMPLE.read_text().replace("allow_mode_override", "allow_mode_overide"))
    accepted, said = validates(misspelt, tmp_path)
    assert not accepted
    assert "allow_mode_overide" in said


def test_the_sample_is_what_the_product_writes(tmp_path: Path) -> None:
    written = tmp_path / "envoy.yaml"
    command = ("envoy-config", "--bootstrap", "--upstream", "127.0.0.1:8080", "--output", str(written))
    assert main([*command, *CHAINS]) == 0
    assert written.read_text() == SAMPLE.read_text()


def test_the_sample_passes_the_lint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envoy-config", "--lint", str(SAMPLE), *CHAINS]) == 0
    assert capsys.readouterr().out == f"nothing to report: {SAMPLE}\n"


def test_a_sample_that_breaks_a_promise_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "envoy.yaml"
    broken.write_text(SAMPLE.read_text().replace("failure_mode_allow: false", "failure_mode_allow: true"))
    assert main(["envoy-config", "--lint", str(broken), "--format", "sarif", *CHAINS]) == 1
    assert "envoy-failure-mode" in capsys.readouterr().out
