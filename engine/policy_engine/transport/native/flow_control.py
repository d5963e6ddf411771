"""What clients may send (RFC 9113 §5.2): windows that bound memory and yet never leave a started message stuck.

Every byte received and not used up is *held*. Streams hold at most their windows, all of a connection about its window.
A message longer than that must first get a *grant* from the pool that all connections share; granted bytes no longer
count against the connection, and its window stays open as far as granted messages still need it. So that this extra
room goes to them and not to streams without a grant, the window of every stream is made small by SETTINGS
(SETTINGS_INITIAL_WINDOW_SIZE, which also takes back what open streams have, RFC 9113 §6.9.2) while the pool is full.

A connection never holds more than its window, plus the small window times its streams; the pool is bounded in itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from policy_engine.transport.native import frames
from policy_engine.transport.native.buffer_pool import BufferPool
from policy_engine.transport.native.stream import Stream

TIGHT_WINDOW: Final = 4096
"""Window of streams without a grant while the pool is full: enough for a headers-only message."""

# A sender with this much window left is not stuck, so that small increments can wait.
_ENOUGH: Final = 65_536


class ReceiveFlow:
    """Receive windows of one connection and its streams. `send` sends a frame."""

    __slots__ = (
        "_holders",
        "_normal",
        "_pool",
        "_promised",
        "_send",
        "_settings_due",
        "_streams",
        "_tight_settings",
        "capacity",
        "held",
        "low",
        "stream_initial",
        "stream_low",
        "stream_share",
        "tight",
        "window",
    )

    def __init__(
        self,
        capacity: int,
        stream_capacity: int,
        pool: BufferPool,
        streams: Mapping[int, Stream],
        send: Callable[[bytes], None],
    ) -> None:
        self.capacity = capacity
        self.window = capacity
        self.low = capacity // 2
        self.stream_initial = stream_capacity
        """Window of a new stream, by the settings the client has acknowledged."""
        self.stream_share = stream_capacity
        """What a stream may hold without a grant."""
        self.stream_low = stream_capacity // 2
        self.held = 0
        """Held by streams beyond their grants: what counts against the connection's window."""
        self.tight = False
        self._normal = stream_capacity
        self._pool = pool
        self._streams = streams
        self._send = send
        self._promised = 0
        """Granted and not received yet."""
        self._holders: dict[Stream, None] = {}
        self._settings_due = 0
        """SETTINGS sent and not acknowledged."""
        self._tight_settings = 0
        """How many of them come up to the one that makes windows small; 0: the client knows it, or there is none."""

    def settle(self, stream: Stream, received: int, held: int) -> None:
        """Note that of `stream.held` and `received` new bytes, `held` stay in memory."""
        used = stream.held + received - held
        returned = min(used, stream.granted)
        self._account(stream, held, stream.granted - returned)
        if returned:
            self._pool.release(stream, returned)
        self.replenish_stream(stream)

    def replenish_stream(self, stream: Stream) -> None:
        """Open the window of a stream as far as its share and its grant allow."""
        if stream.half_closed or stream.ended:
            return
        target = self.stream_share - stream.held
        missing = stream.missing()
        if missing > target and (stream.granted - stream.held >= missing or self.grant(stream)):
            target = missing
        gap = target - stream.window
        if gap >= self.stream_low or (gap > 0 and missing > stream.window):
            stream.window += gap
            self._send(frames.window_update(stream.id, gap))

    def grant(self, stream: Stream, *, first: bool = False) -> bool:
        """Reserve room for all that a stream holds and lacks; False when it has to wait."""
        amount = stream.held + stream.missing() - stream.granted
        if amount > 0:
            if (self._pool.contended and not first) or not self._pool.reserve(stream, amount):
                if not first:
                    self._pool.wait(stream, self)
                return False
            self._account(stream, stream.held, stream.granted + amount)
        if first:
            self.replenish_stream(stream)
            self.replenish()
        return True

    @property
    def wanting(self) -> bool:
        """Whether `replenish` has something to do."""
        return self.window < self.low or self.tight

    def replenish(self) -> None:
        """Open the connection's window, and change to small or normal windows of streams."""
        if self.held > self.low:
            for stream in tuple(self._holders):
                if self.held <= self.low or not self.grant(stream):
                    break
            if self.held > self.low and not self.tight:
                self._tighten()
        elif self.tight and not self._pool.contended and not self._tight_settings:
            self._relax()
        needed = 0 if self._tight_settings else min(self._promised, self.low)
        gap = max(self.capacity - self.held, needed) - self.window
        if gap >= self.low // 2 or (gap > 0 and self.window < _ENOUGH):
            self.window += gap
            self._send(frames.window_update(0, gap))

    def settings_acknowledged(self) -> None:
        """Note that the client knows of one more of our SETTINGS."""
        if not self._settings_due:
            return
        self._settings_due -= 1
        if not self._tight_settings:
            return
        self._tight_settings -= 1
        if self._tight_settings:
            return
        self.stream_initial = TIGHT_WINDOW
        for stream in tuple(self._streams.values()):
            stream.window -= self._normal - TIGHT_WINDOW
            self.replenish_stream(stream)
        self.replenish()

    def forget(self, stream: Stream) -> None:
        """Free everything a stream holds."""
        self._pool.leave(stream)
        returned = stream.granted
        self._account(stream, 0, 0)
        if returned:
            self._pool.release(stream, returned)

    def _tighten(self) -> None:
        self.tight = True
        self._set_share(TIGHT_WINDOW)
        self._tight_settings = self._settings_due

    def _relax(self) -> None:
        self.tight = False
        # The client's windows grow as soon as it reads this; nothing has to wait for its ACK.
        self.stream_initial = self._normal
        self._set_share(self._normal)
        for stream in self._streams.values():
            stream.window += self._normal - TIGHT_WINDOW

    def _set_share(self, share: int) -> None:
        self.stream_share = share
        self.stream_low = share // 2
        self._settings_due += 1
        self._send(frames.settings({frames.INITIAL_WINDOW_SIZE: share}))

    def _account(self, stream: Stream, held: int, granted: int) -> None:
        self.held += max(0, held - granted) - max(0, stream.held - stream.granted)
        self._promised += max(0, granted - held) - max(0, stream.granted - stream.held)
        stream.held = held
        stream.granted = granted
        if held > granted:
            self._holders[stream] = None
        else:
            self._holders.pop(stream, None)
