"""Parses the Python files of strangers: a tree, or the reason why there is none, whatever the bytes are.

A separate module because every check reads source that nobody has looked at: nested so deep, so long, or in such an
encoding that Python's own parser gives up in one of many ways. Nothing of it is run.
"""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from pathlib import Path

MAX_BYTES = 1 << 20
"""Of one file: a syntax tree takes a few hundred times the memory of its source."""

_SHOWN = 200


class SourceError(Exception):
    """A file is no Python that can be checked; `line` and `column` count from 1, None where there is no place."""

    def __init__(self, reason: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(reason)
        self.line = line
        self.column = column


def parse_python(path: Path, name: str) -> ast.Module:
    """Return the syntax tree of `path`, which is called `name` in its own messages. Raises SourceError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise SourceError(f"is larger than {MAX_BYTES >> 20} MiB, more than is checked; data belongs into another file")
    _check_encoding(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a stranger's `\d`, on the terminal of who builds
            return ast.parse(content, name)
    except SyntaxError as error:
        line, column = error.lineno or None, error.offset or None
        raise SourceError(f"is not valid Python: {_cut(error.msg)}", line, column) from None
    except ValueError as error:
        raise SourceError(f"is not valid Python: {_cut(str(error))}") from None
    except (RecursionError, MemoryError):
        raise SourceError("is not valid Python: it is nested too deep") from None


def unparsed(node: ast.expr) -> str:
    """Return an expression as source, for people; `…` for one that is nested too deep, cut where it is long."""
    try:
        return _cut(ast.unparse(node))
    except (RecursionError, ValueError):
        return "…"


def _check_encoding(content: bytes) -> None:
    """Refuse what is not UTF-8: in any other encoding (PEP 263) reviewers see other code than Python runs."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    except SyntaxError as error:
        raise SourceError(f"is not valid Python: {_cut(error.msg)}", 1, 1) from None
    if encoding not in ("utf-8", "utf-8-sig"):
        raise SourceError(f"is encoded as {_cut(encoding)}; Python files of policies are UTF-8", 1, 1)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
