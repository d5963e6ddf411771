"""A stored response, and its form as bytes for a store; JSON, as what a store holds must not be able to run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

_OVERHEAD = 400  # bytes that Python needs for an entry beside its texts, measured
_OVERHEAD_HEADER = 160


@dataclass(frozen=True, slots=True)
class Entry:
    """A response: it was `age` seconds old at `at` (seconds since 1970) and is fresh until it is `lifetime` old."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    at: float
    age: float
    lifetime: float

    def age_at(self, now: float) -> float:
        """Return the age in seconds."""
        return self.age + max(0.0, now - self.at)

    def header(self, name: str) -> str | None:
        """Return the first value of a header."""
        return next((value for own, value in self.headers if own == name), None)

    @property
    def size(self) -> int:
        """What it takes in memory, about, in bytes."""
        texts = sum(len(name) + len(value) + _OVERHEAD_HEADER for name, value in self.headers)
        return len(self.body) + texts + _OVERHEAD


def packed(entry: Entry) -> bytes:
    """Return the entry as bytes: a line of JSON, then the body."""
    head = [entry.status, entry.headers, entry.at, entry.age, entry.lifetime]
    return json.dumps(head).encode() + b"\n" + entry.body


def unpacked(raw: bytes) -> Entry | None:
    """Return the entry, None when the bytes are none."""
    head, end, body = raw.partition(b"\n")
    try:
        status, headers, at, age, lifetime = json.loads(head)
        pairs = tuple((str(name), str(value)) for name, value in headers)
        return Entry(int(status), pairs, body, float(at), float(age), float(lifetime)) if end else None
    except (ValueError, TypeError, OverflowError):
        return None


def grouped(entry: Entry) -> tuple[Mapping[str, str], list[tuple[str, str]]]:
    """Return the first value of each header, and all further ones."""
    first: dict[str, str] = {}
    more = []
    for name, value in entry.headers:
        if name in first:
            more.append((name, value))
        else:
            first[name] = value
    return first, more
