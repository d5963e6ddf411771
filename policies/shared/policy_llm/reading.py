"""What one document of an answer holds, whoever wrote it: texts, ends, usage; and how to write more of the same.

A separate module because policies know only this; each API's own names stay in the module of that API.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

Key = tuple[Any, ...]
"""Which text of an answer: the choice first, then what tells its texts apart. A prefix stands for all that begin so."""

_NO_TEXT = frozenset(
    {"type", "role", "id", "name", "index", "object", "model", "status", "format", "url", "data", "phase"}
    | {"call_id", "item_id", "file_id", "container_id", "tool_use_id", "response_id", "filename"}
    | {"signature", "thoughtSignature", "encrypted_content", "mime_type", "mimeType", "media_type"}
    | {"finish_reason", "stop_reason", "native_finish_reason", "finishReason"}
)
"""Members whose texts a model does not write, or that are no text: names of things, addresses, bytes."""


class Reason(Enum):
    """Why an answer ends here."""

    DENIED = "denied"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Piece:
    """A text and where it stands. It goes on with its key's text, or it is all of that text (`whole`)."""

    key: Key
    holder: Any
    name: str | int
    whole: bool = False

    @property
    def text(self) -> str:
        """The text."""
        found: str = self.holder[self.name]
        return found

    def replace(self, text: str) -> None:
        """Put another text there."""
        self.holder[self.name] = text


@dataclass(frozen=True, slots=True)
class Message:
    """A document to send, and the type of its event in a stream; empty where the API has none."""

    document: dict[str, Any]
    event: str = ""


@dataclass(slots=True)
class Reading:
    """What a document says. `ends` are prefixes of the keys whose texts end with it; `repeats` hold texts once more,
    token by token, as (holder, name): who changes or holds back a text has to empty them."""

    pieces: list[Piece] = field(default_factory=list)
    ends: list[Key] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=dict)
    repeats: list[tuple[dict[str, Any], str]] = field(default_factory=list)

    def empty_repeats(self) -> None:
        """Take the texts out that stand there token by token."""
        for holder, name in self.repeats:
            holder[name] = [] if isinstance(holder[name], list) else None


class Dialect:
    """The answers of one API; an object for each answer, as what it writes goes on with what it read."""

    sentinel: ClassVar[bytes] = b""
    """Data of the event that a stream ends with; empty when there is none."""

    @staticmethod
    def knows(document: dict[str, Any]) -> bool:
        """Tell whether a document, whole or of a stream, is of this API."""
        raise NotImplementedError

    def read(self, document: dict[str, Any]) -> Reading:
        """Return what a document of this API says; whatever else is in it raises nothing."""
        raise NotImplementedError

    def more(self, key: Key, text: str) -> Message:
        """Return a document of a stream that carries more of a text that was read before."""
        raise NotImplementedError

    def end(self, reason: Reason) -> list[Message]:
        """Return the documents that end a stream here."""
        raise NotImplementedError

    def mark(self, document: dict[str, Any], key: Key, reason: Reason) -> None:
        """Note in a whole answer that the text of `key` ends early."""
        raise NotImplementedError


def is_said(value: Any) -> bool:
    """Tell whether an upstream said why it ended; `""` in every event, as some send it, says nothing."""
    return isinstance(value, str) and value.strip().lower() not in ("", "null", "none")


def objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a list, nothing for what is none."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def member(value: Any, name: str) -> Any:
    """Return a member of what should be an object, None when it is none."""
    return value.get(name) if isinstance(value, dict) else None


def number(value: Any) -> int:
    """Return an index, 0 for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def count(*values: Any) -> int | None:
    """Return the sum of those values that are counts, None when none is."""
    found = [int(one) for one in values if _is_count(one)]
    return sum(found) if found else None


def counts(**named: int | None) -> dict[str, int]:
    """Return the counts that are known."""
    return {name: value for name, value in named.items() if value is not None}


def texts(holder: Any, name: str | int, key: Key, *, whole: bool) -> Iterator[Piece]:
    """Yield every text at and below `holder[name]`; the way there becomes part of the key.

    A step of the way is the name of a member, or for an element of a list its `index`, as parts of tool calls have one,
    else its place and its type.
    """
    stack: list[tuple[Any, str | int, Key]] = [(holder, name, key)]
    while stack:
        parent, at, way = stack.pop()
        value = parent[at]
        if isinstance(value, str):
            yield Piece(way, parent, at, whole)
        elif isinstance(value, dict):
            stack += [
                (value, one, (*way, one)) for one in reversed(value) if one not in _NO_TEXT or _is_deep(value[one])
            ]
        elif isinstance(value, list):
            stack += [(value, at, (*way, _step(at, one))) for at, one in reversed(list(enumerate(value)))]


def others(document: dict[str, Any], known: frozenset[str], key: Key) -> Iterator[Piece]:
    """Yield the texts of members that are not `known`: whatever an upstream adds is looked at as it is."""
    for name, value in document.items():
        if name not in known and (name not in _NO_TEXT or _is_deep(value)):
            yield from texts(document, name, (*key, name), whole=True)


def nested(way: Key, text: str) -> dict[str, Any]:
    """Return an object that has `text` at the end of `way`, as `texts` gives ways."""
    value: Any = text
    for step in reversed(way):
        if isinstance(step, tuple):
            index, kind = step
            kept = {"index": index} if kind is None else {"type": kind}
            value = [{**kept, **value} if isinstance(value, dict) else value]
        else:
            value = {step: value}
    found: dict[str, Any] = value
    return found


def _is_deep(value: Any) -> bool:
    return isinstance(value, dict | list)


def _step(at: int, element: Any) -> tuple[int, str | None]:
    index, kind = member(element, "index"), member(element, "type")
    if isinstance(index, int) and not isinstance(index, bool):
        return index, None  # only the first of the pieces with this index says its type
    return at, kind if isinstance(kind, str) else None


def _is_count(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value < 2**53 and value == int(value)
