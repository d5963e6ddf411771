"""Server-sent events (HTML standard, 9.2) cut out of a stream of bytes, each with all its bytes.

A separate module because chunk borders lie anywhere, and two policies must agree on where an event ends.
"""

from __future__ import annotations

import re

_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")
_LINE = re.compile(rb"\r\n|\n|\r")


class EventTooLarge(ValueError):
    """An event has no end within the limit."""


class EventSplitter:
    """Takes chunks, gives whole events; what is left over waits for the next chunk, up to `limit` bytes."""

    __slots__ = ("_limit", "_rest", "_seen")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._seen = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that are whole now, with their final empty line; raises EventTooLarge."""
        self._rest += data
        events = []
        at = 0
        start = max(0, self._seen - 3)
        while found := _END.search(self._rest, start):
            if found.end() == len(self._rest) and self._rest.endswith(b"\r"):
                break  # the \n of this line end may be in the next chunk
            events.append(bytes(self._rest[at : found.end()]))
            at = start = found.end()
        del self._rest[:at]
        self._seen = len(self._rest)
        if self._seen > self._limit or any(len(event) > self._limit + 4 for event in events):
            raise EventTooLarge(f"an event is larger than {self._limit} bytes")
        return events

    def finish(self) -> bytes:
        """Return what is left at the end of the stream: part of an event, or nothing."""
        rest = bytes(self._rest)
        self._rest.clear()
        self._seen = 0
        return rest


def data_of(event: bytes) -> bytes | None:
    """Return the data of an event, its lines joined by newlines; None when it has none (a comment, a retry)."""
    lines = []
    for line in _LINE.split(event.removeprefix(b"\xef\xbb\xbf")):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None


def event_of(data: bytes, *, like: bytes = b"") -> bytes:
    """Return an event with this data and the other fields (event, id, retry, comments) of the event `like`."""
    kept = [line for line in _LINE.split(like) if line and line.partition(b":")[0] != b"data"]
    lines = [*kept, *(b"data: " + line for line in _LINE.split(data))]
    return b"\n".join(lines) + b"\n\n"
