"""Reads an Envoy configuration as Envoy does: protobuf's JSON mapping, with the place of every value kept.

A separate module because of the mapping's freedoms: `snake_case` or `camelCase` keys, numbers as text, enums as
numbers, durations as text (protobuf documentation, "ProtoJSON Format").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from policy_engine.documents.diagnostics import Diagnostic, Rule, Severity
from policy_engine.documents.yaml_document import Document
from policy_engine.sdk.json_pointer import Path

_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)s", re.ASCII)


class Node:
    """A value, there or not; what is not there has no children and reports at the nearest parent that is."""

    __slots__ = ("document", "path", "value")

    def __init__(self, document: Document, path: Path = (), value: Any = None) -> None:
        self.document = document
        self.path = path
        self.value = value

    @property
    def exists(self) -> bool:
        """Whether the field is set; null counts as not set."""
        return self.value is not None

    def get(self, *names: str) -> Node:
        """Return the field `names[0]`'s field `names[1]`…, each in `snake_case`."""
        node = self
        for name in names:
            values = node.value if isinstance(node.value, dict) else {}
            written = name if name in values else _camel(name)
            node = node.at(written if written in values else name)
        return node

    def at(self, key: str | int) -> Node:
        """Return the entry of a map under exactly `key`, or of a list."""
        value = None
        if isinstance(self.value, dict):
            value = self.value.get(key)
        elif isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            value = self.value[key]
        return Node(self.document, (*self.path, key), value)

    def items(self) -> Iterator[Node]:
        """Yield the elements of a list."""
        if isinstance(self.value, list):
            yield from (self.at(index) for index in range(len(self.value)))

    def text(self) -> str:
        """Return the text, empty when it is not one."""
        return self.value if isinstance(self.value, str) else ""

    def texts(self) -> list[str]:
        """Return the texts of a list."""
        return [node.text() for node in self.items()]

    def is_true(self) -> bool:
        """Return whether it is `true`."""
        return self.value is True

    def integer(self, default: int) -> int:
        """Return the number, `default` when it is not set or not one."""
        if isinstance(self.value, str) and self.value.isdecimal() and len(self.value) < 20:
            return int(self.value)
        return self.value if isinstance(self.value, int) and not isinstance(self.value, bool) else default

    def seconds(self, default: float) -> float:
        """Return the duration in seconds, `default` when it is not set or not one."""
        match = _DURATION.fullmatch(self.text())
        return float(match[1]) if match else default

    def enum(self, numbers: Mapping[int, str], default: str) -> str:
        """Return the name of the enum value, `default` when it is not set."""
        if isinstance(self.value, int) and not isinstance(self.value, bool):
            return numbers.get(self.value, default)
        return self.text() or default

    def is_a(self, message: str) -> bool:
        """Return whether it is an `Any` that holds the message with this short name."""
        return self.at("@type").text().rpartition(".")[2] == message

    def error(self, rule: Rule, reason: str, *, allowed: str = "", show: bool = True, key: bool = False) -> Diagnostic:
        """Return a finding about this value that breaks a promise."""
        return self._finding(rule, reason, allowed, Severity.ERROR, show=show, key=key)

    def warning(
        self, rule: Rule, reason: str, *, allowed: str = "", show: bool = True, key: bool = False
    ) -> Diagnostic:
        """Return a finding about this value that may break one."""
        return self._finding(rule, reason, allowed, Severity.WARNING, show=show, key=key)

    def _finding(
        self, rule: Rule, reason: str, allowed: str, severity: Severity, *, show: bool, key: bool
    ) -> Diagnostic:
        scalar = self.value if show and not isinstance(self.value, dict | list) else None
        return self.document.diagnostic(
            self.path, reason, key=key, rule=rule, allowed=allowed, severity=severity, value=scalar
        )


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)
