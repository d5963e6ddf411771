"""The command line: where its settings come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policy_engine.cli import main


def test_the_environment_names_the_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from_variable, from_flag = tmp_path / "variable.yaml", tmp_path / "flag.yaml"
    from_variable.write_text("workers: 3\n")
    from_flag.write_text("workers: 4\n")
    monkeypatch.setenv("POLICY_ENGINE_CONFIG", str(from_variable))

    def workers(*arguments: str) -> str:
        assert main(["config", "show", "--json", *arguments]) == 0
        return str(json.loads(capsys.readouterr().out)["workers"]["value"])

    assert (workers(), workers("--config", str(from_flag))) == ("3", "4")


def test_a_missing_settings_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POLICY_ENGINE_CONFIG", str(tmp_path / "none.yaml"))
    assert main(["config", "show"]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_policies_that_cannot_even_be_looked_at_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build-info", "--policies-directory", "x" * 300]) == 2
    assert "File name too long" in capsys.readouterr().err
