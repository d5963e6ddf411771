"""Completion as shells do it: bash is asked what it would offer; the others' scripts are parsed where they are there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from policy_engine.cli import main, parser
from policy_engine.completion import SHELLS, completion

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_policy_engine
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(tmp_path: Path, *words: str) -> list[str]:
    script = tmp_path / "completion.bash"
    script.write_text(completion(parser(), "bash"))
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK, "bash", str(script), "policy-engine", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("va",), ["validate"]),
        (("config", ""), ["show"]),
        (("validate", "--form"), ["--format"]),
        (("validate", "--format", ""), ["text", "json", "sarif"]),
        (("validate", "a.yaml", "--format", "s"), ["sarif"]),
        (("run", "--tls-cl"), ["--tls-client-ca", "--tls-client-names"]),
        (("run", "--config", "chai"), ["chains.yaml"]),
        (("validate", "chai"), ["chains.yaml"]),
        (("completion", ""), list(SHELLS)),
        (("--ver",), ["--version"]),
        (("no-such-command", "x"), []),
    ],
)
def test_bash_offers(tmp_path: Path, words: tuple[str, ...], wanted: list[str]) -> None:
    (tmp_path / "chains.yaml").touch()
    assert offered(tmp_path, *words) == wanted


def test_bash_offers_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = offered(tmp_path, "")
    assert {"run", "validate", "envoy-config", "config", "completion"} <= set(names)


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_printed_and_parse(tmp_path: Path, shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "validate" in script
    assert "--listen" in script or "-l listen" in script
    if shutil.which(shell):
        file = tmp_path / "script"
        file.write_text(script)
        subprocess.run([shell, "-n", str(file)], check=True)
