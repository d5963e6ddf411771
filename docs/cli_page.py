"""Writes cli.md, the reference of the command lines, from their parsers: `python -m docs.cli_page` in the repository.

A separate module so that the page is made, not typed; a test holds it fresh.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from policy_control_plane.cli import parser as control_plane_parser
from policy_engine.cli import parser as engine_parser
from policy_engine.command_tree import Command, Option, commands

PAGE = Path(__file__).resolve().parent / "cli.md"

_HEAD = """\
# The command lines

Made from the programs' own `--help` by `python -m docs.cli_page`; change the text there. Settings are flags of
`policy-engine run`; [configs/policy-engine.yaml](../configs/policy-engine.yaml) explains each of them, and the other
commands that read settings take the same flags.
"""
_EXIT = re.compile(r"exit status:\n(?:  .*\n)+")


def page() -> str:
    """Return the whole page."""
    parts = [_HEAD]
    for parser in (engine_parser(), control_plane_parser()):
        parts += [_program(parser)]
    return "\n".join(parts)


def _program(parser: argparse.ArgumentParser) -> str:
    lines = []
    for command in commands(parser):
        name = " ".join((parser.prog, *command.path))
        lines += [f"{'##' if not command.path else '###'} {name}", "", _sentence(command.text.strip()), ""]
        if command.path:
            lines += _options(command)
        else:
            lines += _overview(command)
    return "\n".join(lines)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _overview(command: Command) -> Iterator[str]:
    yield from ("| command | meaning |", "|---|---|")
    yield from (f"| `{name}` | {_cell(text)} |" for name, text in command.commands)
    yield ""
    status = _EXIT.search(command.epilog)
    if status is not None:
        yield from ("```text", *status[0].rstrip().splitlines(), "```", "")


def _options(command: Command) -> Iterator[str]:
    shown = [one for one in command.options if "--help" not in one.names]
    # Of the settings, the sample file tells more.
    shown = [one for one in shown if "POLICY_ENGINE_" not in one.text or "--config" in one.names]
    if command.commands:
        yield from (f"- `{name}`: {text}" for name, text in command.commands)
        yield ""
    if shown:
        yield from ("| option | meaning |", "|---|---|")
        yield from (f"| {_names(one)} | {_cell(one.text)} |" for one in shown)
        yield ""


def _names(option: Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.names)
    takes = f" `{_cell(option.takes)}`" if option.takes else ""
    return f"{names}{takes}".strip() + (" (required)" if option.required and option.names else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.exit(0)
