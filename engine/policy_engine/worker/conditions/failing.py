"""Which look-ups of a condition a request can make fail: entries of maps that nobody asked about first.

Apart from the engines because it is about what the operator wrote, as tokens: a hint for a warning, never a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

from policy_engine.worker.conditions.source import VARIABLES, Source, read_source


@dataclass(frozen=True, slots=True)
class Unguarded:
    """A look-up that fails when the entry is missing, and the condition that has to hold before it."""

    lookup: str
    guard: str


def unguarded(text: str) -> list[Unguarded]:
    """Return the look-ups of entries whose presence the condition never asks about, each once, in their order."""
    source = read_source(text)
    found: dict[str, Unguarded] = {}
    if source.problems:
        return []
    written = "".join(token.text for token in source.tokens)
    for index in range(len(source.tokens)):
        name, last = _map_at(source, index)
        if not name or (index > 0 and source.tokens[index - 1].text == "."):
            continue
        steps = _steps(source, last + 1)
        if not steps or _within_has(source, index):
            continue
        path = name + "".join(steps)
        if len(steps) == 1:
            key = _key(steps[0])
            guard = f"{key} in {name}"
            guarded = f"{key}in{name}" in written or f"has({path})" in written
        else:
            inner, key = name + "".join(steps[:-1]), _key(steps[-1])
            guard = f"has({path})" if steps[-1].startswith(".") else f"{key} in {inner}"
            guarded = f"has({path})" in written or f"{key}in{inner}" in written
        if not guarded:
            found[path] = Unguarded(path, guard)
    return list(found.values())


def _map_at(source: Source, index: int) -> tuple[str, int]:
    """Return the map variable whose name begins at token `index`, and the index of its last token."""
    texts = [token.text for token in source.tokens[index : index + 3]]
    for name, length in (("".join(texts), 3), (texts[0], 1)):
        if VARIABLES.get(name, "").endswith("map"):
            return name, index + length - 1
    return "", index


def _steps(source: Source, start: int) -> list[str]:
    """Return the look-ups by constant keys that follow: `["x"]` and `.x`, as they are written."""
    tokens, steps, at = source.tokens, list[str](), start
    while at + 1 < len(tokens):
        if tokens[at].text == "[" and at + 2 < len(tokens) and tokens[at + 2].text == "]":
            steps.append(f"[{tokens[at + 1].text}]")
            at += 3
        elif (
            tokens[at].text == "."
            and tokens[at + 1].kind == "name"
            and (at + 2 == len(tokens) or tokens[at + 2].text != "(")
        ):
            steps.append(f".{tokens[at + 1].text}")
            at += 2
        else:
            break
    return steps


def _key(step: str) -> str:
    return step[1:-1] if step.startswith("[") else f'"{step[1:]}"'


def _within_has(source: Source, index: int) -> bool:
    return index >= 2 and source.tokens[index - 1].text == "(" and source.tokens[index - 2].text == "has"
