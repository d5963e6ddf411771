"""Server-sent events (WHATWG HTML, 9.2.5 and 9.2.6) cut out of a stream of bytes, each with all its bytes.

A separate module because chunk borders lie anywhere, and all policies must agree on where an event ends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BOM = b"\xef\xbb\xbf"
_EMPTY_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))[\r\n]")  # a line's end, and the first byte of the next one's
_LINE = re.compile(rb"([^\r\n]*)(\r\n|\n|\r|\Z)")
_EMPTY_LINE_PAIRS = (b"\n\n", b"\n\r", b"\r\r")
"""The bytes that `_EMPTY_LINE` ends with, one of which every empty line has."""
_LINE_ENDS = re.compile(rb"[\r\n]+")


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it came, with the empty line that ends it; or lines that are none (empty lines, a comment).

    `data` is what the standard calls its data buffer: the values of the `data` fields, joined by newlines; None when
    there is no such field. An event without data is dispatched by no client, and still belongs to the stream.
    """

    raw: bytes
    data: bytes | None

    def with_data(self, data: bytes) -> bytes:
        """Return the event with other data; all other lines, and how lines end, stay as they are."""
        lines = _lines(self.raw)
        last = max((at for at, (line, _) in enumerate(lines) if _is_data(line)), default=-1)
        out: list[bytes] = []
        for at, (line, end) in enumerate(lines):
            if (
                at == last
            ):  # here, and with its line end: the CR of another one could become one end with an LF after it
                out += [b"data: " + one + (end or b"\n") for one in data.split(b"\n")]
            elif not _is_data(line):
                out.append(line + end)
        return b"".join(out)

    def completed(self) -> Event:
        """Return the event with the empty line that an unfinished last one lacks."""
        line_ended = self.raw.endswith((b"\n", b"\r"))
        return Event(self.raw + (b"\n" if line_ended else b"\n\n"), self.data)


class EventBuffer:
    """Takes chunks, gives the bytes of whole events; what is left over waits for the next chunk, up to `limit` bytes.

    An event is given with the first byte that ends its empty line: an LF that belongs to a CR before it comes by
    itself, so that nothing waits for what may never come. All that is given, joined, is the stream, and `events_of`
    finds the same events in it however the stream was cut. The cost is linear in the stream.

    `too_large` tells that an event has no end within the limit. No more is given from there on; what came of it and
    after it is kept for `finish`, so whoever goes on without reading calls that and passes the rest by itself.
    """

    __slots__ = ("_limit", "_rest", "_seen", "too_large")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._seen = 0
        self.too_large = False

    def feed(self, data: bytes) -> bytes:
        """Return what is whole now."""
        rest = self._rest
        rest += data
        if self.too_large:
            return b""
        at = _behind_line_ends(rest, 0)
        start = max(at, self._seen - 2)  # what was seen holds no empty line, but one may begin in its last two bytes
        # The last end within the limit is as good as the next one, and found without a look at each event.
        while (found := max(rest.rfind(pair, start, at + self._limit + 1) for pair in _EMPTY_LINE_PAIRS)) >= 0:
            at = start = _behind_line_ends(rest, found + 2)
        whole = bytes(rest[:at])
        del rest[:at]
        self._seen = len(rest)
        self.too_large = self._seen > self._limit
        return whole

    def finish(self) -> bytes:
        """Return what is left at the end of the stream: an event without its empty line, or nothing.

        A client by the standard discards it; others read it, so who limits or guards reads it too.
        """
        rest = bytes(self._rest)
        self._rest.clear()
        self._seen = 0
        return rest


def events_of(data: bytes, *, first: bool = False) -> list[Event]:
    """Return the events in `data`, which begins where one does and may end within one.

    Joined, they are `data`. A byte order mark at the beginning of a stream (`first`) is none of its first event.
    """
    events: list[Event] = []
    at = 0
    if first and data.startswith(_BOM):
        at = len(_BOM)
        events.append(Event(_BOM, None))
    while at < len(data):
        end = _behind_line_ends(data, at)
        if end > at:
            events.append(Event(data[at:end], None))
        else:
            found = _EMPTY_LINE.search(data, at)
            end = found.end() if found is not None else len(data)
            events.append(Event(data[at:end], _data_in(data[at:end])))
        at = end
    return events


def event_of(data: bytes, *, name: str = "") -> bytes:
    """Return an event with this data, and of this type unless it is empty."""
    head = b"event: " + name.encode() + b"\n" if name else b""
    return head + b"".join(b"data: " + line + b"\n" for line in data.split(b"\n")) + b"\n"


def _behind_line_ends(data: bytes | bytearray, at: int) -> int:
    found = _LINE_ENDS.match(data, at)
    return at if found is None else found.end()


def _data_in(raw: bytes) -> bytes | None:
    values = [value for name, value in map(_field, (line for line, _ in _lines(raw))) if name == b"data"]
    return b"\n".join(values) if values else None


def _lines(text: bytes) -> list[tuple[bytes, bytes]]:
    """Return the lines of `text`, each with what ends it; the last has no end when the text stops there."""
    return [(line, end) for line, end in _LINE.findall(text) if line or end]


def _is_data(line: bytes) -> bool:
    return _field(line)[0] == b"data"


def _field(line: bytes) -> tuple[bytes, bytes]:
    """Return the name and the value of a field; a comment has an empty name."""
    name, _, value = line.partition(b":")
    return name, value.removeprefix(b" ")
