"""What an argparse parser offers, as plain data: commands, options, words that may be given.

A separate module because shell completion and the reference page both need it, and only here is it known how argparse
keeps it. What a parser does not show in its help (`argparse.SUPPRESS`) is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Option:
    """An option, or an argument without dashes, whose `names` are empty.

    `takes` is the word that stands for its value in the help, empty for a switch; `choices` are all its values, if
    they are few.
    """

    names: tuple[str, ...]
    takes: str
    choices: tuple[str, ...]
    text: str
    required: bool


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a program; `path` are the words that choose it, none for the program itself."""

    path: tuple[str, ...]
    text: str
    options: tuple[Option, ...]
    commands: tuple[tuple[str, str], ...]
    epilog: str


def commands(parser: argparse.ArgumentParser) -> Iterator[Command]:
    """Yield the program itself, and every command below it, in the order of the help."""
    yield from _commands(parser, (), parser.description or "")


def _commands(parser: argparse.ArgumentParser, path: tuple[str, ...], text: str) -> Iterator[Command]:
    below: list[tuple[str, str, argparse.ArgumentParser]] = []
    options = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {one.dest: one.help or "" for one in action._choices_actions}
            below += [(name, texts.get(name, ""), one) for name, one in action.choices.items()]
        elif action.help is not argparse.SUPPRESS:
            options.append(_option(action, parser.prog))
    named = tuple((name, help_text) for name, help_text, _ in below)
    yield Command(path, text, tuple(options), named, parser.epilog or "")
    for name, help_text, one in below:
        yield from _commands(one, (*path, name), one.description or help_text)


def _option(action: argparse.Action, prog: str) -> Option:
    choices = tuple(map(str, action.choices)) if action.choices is not None else ()
    takes = ""
    if action.nargs != 0:
        shown = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        takes = "|".join(choices) or shown
    text = (action.help or "") % {**vars(action), "prog": prog}
    return Option(tuple(action.option_strings), takes, choices, text, action.required)
