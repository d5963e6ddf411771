"""Checks BUILD and .bzl files as far as that takes no buildifier, which neither PyPI nor Debian has.

What it finds is wrong for buildifier too; buildifier (`tools/buildifier.sh`) finds more and mends it.
"""

from __future__ import annotations

import ast
import io
import itertools
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

Finding = tuple[int, str]
SORTED = ("data", "deps", "srcs", "tags", "test_deps", "visibility")
"""Attributes whose lists buildifier sorts."""

NOT_OURS = ("bazel-", ".")
"""Beginnings of directories without files of ours."""


def findings(text: str) -> list[Finding]:
    """Return what is not as buildifier writes it: line and reason."""
    try:
        tree = ast.parse(text)
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (SyntaxError, tokenize.TokenError) as error:
        return [(getattr(error, "lineno", None) or 1, f"cannot be read: {error}")]
    return sorted({*_lines(text), *_tokens(tokens), *_loads(tree), *_calls(tree)})


def _lines(text: str) -> Iterator[Finding]:
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            yield number, "white space at the end of the line"
        if "\t" in line:
            yield number, "a tab; indentation is four spaces"
    if text and (not text.endswith("\n") or text.endswith("\n\n")):
        yield text.count("\n") + 1, "a file ends with one newline"


def _tokens(tokens: list[tokenize.TokenInfo]) -> Iterator[Finding]:
    depth = 0
    for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        depth += (token.string in "([{") - (token.string in ")]}") if token.type == tokenize.OP else 0
        if token.type == tokenize.STRING and token.string.lstrip("r").startswith("'") and '"' not in token.string:
            yield token.start[0], f"{token.string} is written with double quotes"
        if token.type == tokenize.OP and token.string == "=" and depth:
            apart = before.end[1] + 1 == token.start[1] and token.end[1] + 1 == after.start[1]
            if before.end[0] == token.start[0] == after.start[0] and not apart:
                yield token.start[0], "one space on each side of ="


def _loads(tree: ast.Module) -> Iterator[Finding]:
    body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    loads = [call for call in map(_call, body) if call is not None and _name(call) == "load"]
    first = list(itertools.takewhile(lambda node: (call := _call(node)) is not None and _name(call) == "load", body))
    for call in loads[len(first) :]:
        yield call.lineno, "load() stands before everything else"
    files = [str(call.args[0].value) for call in loads if isinstance(call.args[0], ast.Constant)]
    for call, file, previous in zip(loads[1:], files[1:], files, strict=False):
        if (_origin(file), file) < (_origin(previous), previous):
            yield call.lineno, f'load("{file}") stands before load("{previous}")'
    for call in loads:
        names = [str(one.value) for one in call.args[1:] if isinstance(one, ast.Constant)]
        if names != sorted(names):
            yield call.lineno, f"names are loaded in the order {', '.join(sorted(names))}"


def _calls(tree: ast.Module) -> Iterator[Finding]:
    for call in filter(None, map(_call, tree.body)):
        keywords = [one.arg for one in call.keywords]
        if "name" in keywords[1:]:
            yield call.lineno, "name is the first attribute"
        for keyword in call.keywords:
            if keyword.arg in SORTED and isinstance(keyword.value, ast.List):
                labels = [one.value for one in keyword.value.elts if isinstance(one, ast.Constant)]
                texts = [label for label in labels if isinstance(label, str)]
                if len(texts) == len(keyword.value.elts) and texts != sorted(texts, key=_label):
                    yield keyword.value.lineno, f"{keyword.arg} is sorted: {', '.join(sorted(texts, key=_label))}"


def _call(node: ast.stmt) -> ast.Call | None:
    return node.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _origin(label: str) -> int:
    return 0 if label.startswith("@") else 1 if label.startswith("//") else 2


def _label(label: str) -> tuple[int, list[str]]:
    """Return the place of a label in a list: files, then `:x`, `//x`, `@x`, each by its parts."""
    place = next((place for place, start in enumerate((":", "//", "@"), 1) if label.startswith(start)), 0)
    return place, label.replace(":", ".").split(".")


def main(root: Path) -> int:
    """Check every file below `root` and print what is wrong; returns the exit status."""
    found, count = 0, 0
    for path in sorted((*root.rglob("*.bazel"), *root.rglob("*.bzl"))):
        name = path.relative_to(root)
        if name.parts[0].startswith(NOT_OURS):
            continue
        count += 1
        for line, reason in findings(path.read_text(encoding="utf-8")):
            found += 1
            print(f"{name}:{line}: {reason}")
    if found:
        print(f"{found} places in {count} files; tools/buildifier.sh mends them where buildifier or Go is installed")
    return 1 if found or not count else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve().parent))
