"""Takes the pages of the tree apart: their text, their code blocks, and the commands that they show.

Pages are looked at where they lie in the workspace, not where a build copied them: a page that nobody declared is
checked too.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WORKSPACE = Path(__file__).resolve().parents[1]

TOP = frozenset(entry.name for entry in WORKSPACE.iterdir() if not entry.name.startswith((".", "bazel-")))
"""What lies at the top of the tree; a path on a page begins with one of these."""

_FENCE = re.compile(r"^( *)```(\w*)$")
_KIND = re.compile(r"<!-- (\w+): (.+) -->")
_ASSIGNMENT = re.compile(r"\w+=.*")
_PROMPT = "$ "


@dataclass(frozen=True, slots=True)
class Block:
    """A code block: `language` as after the fence, "" for none, "indented" for one without a fence.

    `line` is that of its first line, counted from 1; `kind` is what a comment before it (`<!-- yaml: settings -->`)
    says it is.
    """

    page: Path
    line: int
    language: str
    text: str
    kind: str | None = None

    def __str__(self) -> str:
        return f"{self.page.relative_to(WORKSPACE)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a block, split into words as a shell does, without the variables set before it."""

    block: Block
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.block}: {shlex.join(self.words)}"


@functools.cache
def pages() -> tuple[Path, ...]:
    """Return every page (`*.md`) of the tree; hidden directories and what Bazel links are left out."""
    found = []
    for directory, subdirectories, names in os.walk(WORKSPACE):
        subdirectories[:] = sorted(
            name for name in subdirectories if not name.startswith(".") and not Path(directory, name).is_symlink()
        )
        found += [Path(directory, name) for name in sorted(names) if name.endswith(".md")]
    return tuple(found)


def blocks(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page."""
    lines = page.read_text(encoding="utf-8").split("\n")
    kind, number = None, 0
    while number < len(lines):
        line = lines[number]
        if match := _FENCE.match(line):
            indent, language = len(match[1]), match[2]
            end = next(at for at in range(number + 1, len(lines)) if lines[at].strip() == "```")
            text = "".join(f"{inner[indent:]}\n" for inner in lines[number + 1 : end])
            yield Block(page, number + 2, language, text, kind)
            kind, number = None, end
        elif line.startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield Block(page, number + 1, "indented", "".join(f"{inner[4:]}\n" for inner in lines[number:end]))
            kind, number = None, end - 1
        elif line.strip():
            comment = _KIND.fullmatch(line.strip())
            kind = comment[2] if comment else None
        number += 1


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a page that stand in no code block."""
    inside: set[int] = set()
    for block in blocks(page):
        fence = int(block.language != "indented")
        inside.update(range(block.line - fence, block.line + block.text.count("\n") + fence))
    for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), 1):
        if number not in inside:
            yield number, line


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a shell's block, without comments, what is printed and the bodies of here-documents."""
    text = block.text.replace("\\\n", " ")
    lines = text.split("\n")
    if block.language == "console":
        lines = [line.removeprefix(_PROMPT) for line in lines if line.startswith(_PROMPT)]
    until: str | None = None
    for line in lines:
        if until is not None:
            until = None if line == until else until
            continue
        if here := re.search(r"<<'?(\w+)'?$", line):
            until = here[1]
        for words in _commands(line):
            yield Command(block, words)


def _commands(line: str) -> Iterator[tuple[str, ...]]:
    line = re.sub(r"^(\w+)=\$\((.*?)\)", r"\2", line)  # what is run to set a variable is a command, too
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    try:
        tokens = list(lexer)
    except ValueError:  # a drawing or what a command prints
        return
    words: list[str] = []
    redirected = False
    for token in [*tokens, ";"]:
        if redirected or set(token) <= set("<>"):
            redirected = not redirected
        elif set(token) <= set("|&;"):
            while words and _ASSIGNMENT.fullmatch(words[0]):
                words.pop(0)
            if words:
                yield tuple(words)
            words = []
        else:
            words.append(token)
