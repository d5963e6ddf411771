"""Checks names that Envoy would read as something else than text, which keeps it from starting.

A separate module because it needs the file's text: whether a value is quoted is not in the value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.documents.yaml_document import Document
from policy_engine.envoy.scalars import is_plain_text
from policy_engine.sdk.json_pointer import Path

_TEXTS = frozenset(
    {"name", "cluster", "cluster_name", "stat_prefix", "route_config_name", "prefix", "path", "path_separated_prefix"}
)
_QUOTES = "\"'|>&"


def lint_scalars(document: Document, text: str) -> Iterator[Diagnostic]:
    """Yield a finding for each name in the file that Envoy reads as a boolean, a number or null."""
    lines = text.splitlines()
    for path, value in _named(document.value, ()):
        place = document.locate(path)
        written = lines[place.line - 1][place.column - 1 :] if place is not None and place.line <= len(lines) else '"'
        if written[:1] in _QUOTES:
            continue
        if not isinstance(value, str) or not is_plain_text(value):
            reason = "Envoy reads this name as a boolean or a number and does not start"
            yield document.diagnostic(path, reason, rule=Rule.ENVOY_SCALAR, value=value, allowed="the name in quotes")


def _named(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in _TEXTS and not isinstance(inner, dict | list) and inner is not None:
                yield (*path, key), inner
            else:
                yield from _named(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _named(inner, (*path, index))
