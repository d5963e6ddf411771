"""What `see-why.md` shows of `explain` is what the command prints."""

from __future__ import annotations

import re
import shlex

import pytest

from docs.pages import WORKSPACE, Block, blocks
from policy_engine.cli import main

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
_TIME = re.compile(r", [0-9.e-]+ ms")

SHOWN = [one for one in blocks(WORKSPACE / "docs" / "see-why.md") if one.language == "console"]


def parts(block: Block) -> tuple[list[str], str]:
    command, _, output = block.text.replace("\\\n", " ").partition("\n")
    return shlex.split(command.removeprefix("$ ")), output


@pytest.mark.parametrize("block", SHOWN, ids=str)
def test_the_output_is_what_is_shown(
    block: Block, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(WORKSPACE)
    (program, *arguments), shown = parts(block)
    assert program == "policy-engine"
    status = main(arguments)
    printed = _TIME.sub(", TIME ms", _ID.sub("ID", capsys.readouterr().out))
    assert printed == shown
    assert status == ("DENIED" in shown)


def test_there_is_something_to_hold() -> None:
    assert len(SHOWN) >= 2
