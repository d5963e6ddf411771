"""Findings that an operator has seen and wants no more: by rule for a whole file, or by a comment where they are.

Only warnings can be silenced: an error breaks a promise whether it is shown or not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from policy_engine.documents.diagnostics import Diagnostic, Severity

_COMMENT = re.compile(r"#\s*policy-engine:\s*ignore\s+([a-z0-9-]+(?:[\s,]+[a-z0-9-]+)*)\s*$")


def not_silenced(found: Iterable[Diagnostic], text: str, rules: Collection[str]) -> list[Diagnostic]:
    """Return the findings but warnings of `rules`, and those that a comment in `text` is about.

    A comment `# policy-engine: ignore RULE` is about the line it is on, and about the next one when it has a line of
    its own.
    """
    silenced: dict[int, set[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _COMMENT.search(line)
        if match is not None:
            names = set(re.split(r"[\s,]+", match[1]))
            silenced.setdefault(number + 1 if line.lstrip().startswith("#") else number, set()).update(names)
    return [
        one
        for one in found
        if one.severity is not Severity.WARNING
        or (one.rule.value not in rules and one.rule.value not in silenced.get(one.line or 0, ()))
    ]
