"""All connections of a server: at most so many, and those without a request give way to new ones.

A separate module because what counts, from the first byte of TLS on, is decided before there is HTTP/2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

_LOOKS = 1024
"""Connections looked at for one that is idle, each time one is needed; the next time it goes on from there."""


class Held(Protocol):
    """One connection."""

    @property
    def settled(self) -> bool:
        """Whether TLS and the exchange of SETTINGS are over."""
        ...

    @property
    def idle(self) -> bool:
        """Whether it has no stream."""
        ...

    def give_way(self) -> None:
        """Close, to make place for another."""
        ...


class Connections:
    """The connections that are open, the oldest first; those that have not begun yet apart from those that have."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._beginning: dict[Held, None] = {}
        self._settled: dict[Held, None] = {}

    def __len__(self) -> int:
        return len(self._beginning) + len(self._settled)

    def __iter__(self) -> Iterator[Held]:
        yield from tuple(self._beginning)
        yield from tuple(self._settled)

    def admit(self, connection: Held) -> bool:
        """Take a new connection, if need be in place of one without a request; returns whether it may stay.

        Whoever has not finished its handshake goes first, the oldest of them: it takes milliseconds, and a flood of
        connections that never begin must not push out those that have.
        """
        if len(self) >= self._most:
            victim = self._expendable()
            if victim is None:
                return False
            self.leave(victim)
            victim.give_way()
        self._beginning[connection] = None
        return True

    def leave(self, connection: Held) -> None:
        """Forget a connection that is closed or about to be."""
        self._beginning.pop(connection, None)
        self._settled.pop(connection, None)

    def _expendable(self) -> Held | None:
        while self._beginning:
            oldest = next(iter(self._beginning))
            if not oldest.settled:
                return oldest
            del self._beginning[oldest]
            self._settled[oldest] = None
        for _ in range(min(_LOOKS, len(self._settled))):
            oldest = next(iter(self._settled))
            if oldest.idle:
                return oldest
            del self._settled[oldest]
            self._settled[oldest] = None
        return None
