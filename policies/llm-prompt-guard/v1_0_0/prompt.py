"""The texts of a prompt, wherever APIs like OpenAI's have them; apart because only it knows their shapes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """One text and where it stands, so that it can be replaced."""

    holder: Any
    key: str | int

    @property
    def text(self) -> str:
        """The text."""
        found: str = self.holder[self.key]
        return found

    def replace(self, text: str) -> None:
        """Put another text there."""
        self.holder[self.key] = text


def places(document: dict[str, Any], roles: Collection[str]) -> Iterator[Place]:
    """Yield the texts of messages with one of `roles`, and all of `prompt` and `input`, which have no roles.

    A message without a role that is known counts as one to look at: nothing gets round by a role of its own.
    """
    for name in ("messages", "input", "prompt"):
        yield from _texts(document, name, roles)


def _texts(holder: Any, key: str | int, roles: Collection[str]) -> Iterator[Place]:
    value = holder[key] if not isinstance(holder, dict) or key in holder else None
    if isinstance(value, str):
        yield Place(holder, key)
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from _texts(value, index, roles)
    elif isinstance(value, dict):
        role = value.get("role")
        if role in KNOWN_ROLES and role not in roles:
            return
        for name in ("content", "text", "refusal"):
            yield from _texts(value, name, roles)


KNOWN_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""The roles of chat completions."""
