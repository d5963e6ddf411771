"""The sample of Envoy's configuration is one that Envoy takes."""

from __future__ import annotations

from pathlib import Path

from integration.harness.envoy import validates

SAMPLE = Path(__file__).parent.parent / "configs" / "envoy.yaml"


def test_envoy_accepts_the_sample(tmp_path: Path) -> None:
    accepted, said = validates(SAMPLE, tmp_path)
    assert accepted, said


def test_envoy_refuses_a_misspelt_sample(tmp_path: Path) -> None:
    misspelt = tmp_path / "envoy.yaml"
    misspelt.write_text(SAMPLE.read_text().replace("allow_mode_override", "allow_mode_overide"))
    accepted, said = validates(misspelt, tmp_path)
    assert not accepted
    assert "allow_mode_overide" in said
