"""What clients may send (RFC 9113 §5.2): windows that bound memory and yet never leave a started message stuck.

Every byte received and not used up is *held*. A stream holds at most its window, a connection about its window. A
message longer than that must first get a *grant* from the pool all connections share; granted bytes no longer count
against the connection. So memory is bounded by the pool plus the windows, a client with thousands of half-sent messages
is served one grant after the other, and the connection's window stays open as far as granted messages still need it.
A client that spends that extra room on other streams instead has those ended with RESOURCE_EXHAUSTED.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from policy_engine.transport.native.headers import RESOURCE_EXHAUSTED
from policy_engine.transport.native.stream import Stream

# A sender with this much window left is not stuck, so that small increments can wait.
_ENOUGH: Final = 65_536
_OVERDRAFT: Final = 4


class BufferPool:
    """Room for long messages of all connections; who finds none waits in line."""

    __slots__ = ("_waiting", "available", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.available = capacity
        self._waiting: dict[Stream, ReceiveFlow] = {}

    def reserve(self, amount: int) -> bool:
        """Take room unless there is too little, or others wait for it."""
        if amount > self.available:
            return False
        self.available -= amount
        return True

    def wait(self, stream: Stream, flow: ReceiveFlow) -> None:
        """Get in line, once."""
        self._waiting.setdefault(stream, flow)

    @property
    def contended(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def leave(self, stream: Stream) -> None:
        """Get out of the line."""
        self._waiting.pop(stream, None)

    def release(self, amount: int) -> None:
        """Give room back and serve those who wait, in order."""
        self.available += amount
        while self._waiting:
            stream, flow = next(iter(self._waiting.items()))
            if not flow.grant(stream, first=True):
                return
            self._waiting.pop(stream, None)


class ReceiveFlow:
    """Receive windows of one connection and its streams. `update` sends WINDOW_UPDATE (stream id, increment)."""

    __slots__ = (
        "_held",
        "_holders",
        "_pool",
        "_promised",
        "_update",
        "capacity",
        "low",
        "stream_capacity",
        "stream_low",
        "window",
    )

    def __init__(
        self, capacity: int, stream_capacity: int, pool: BufferPool, update: Callable[[int, int], None]
    ) -> None:
        self.capacity = capacity
        self.stream_capacity = stream_capacity
        self.window = capacity
        self.low = capacity // 2
        self.stream_low = stream_capacity // 2
        self._pool = pool
        self._update = update
        self._held = 0
        """Held by streams beyond their grants."""
        self._promised = 0
        """Granted and not received yet."""
        self._holders: dict[Stream, None] = {}

    @property
    def held(self) -> int:
        """Bytes that count against the connection's window."""
        return self._held

    def settle(self, stream: Stream, received: int, held: int) -> None:
        """Note that of `stream.held` and `received` new bytes, `held` stay in memory."""
        used = stream.held + received - held
        returned = min(used, stream.granted)
        self._account(stream, held, stream.granted - returned)
        if returned:
            self._pool.release(returned)
        if self._held > _OVERDRAFT * self.capacity:
            stream.fail(RESOURCE_EXHAUSTED, "too many unfinished messages on this connection")
        elif not stream.ended:
            self.replenish_stream(stream)

    def replenish_stream(self, stream: Stream) -> None:
        """Open the window of a stream as far as its share and its grant allow."""
        if stream.half_closed or stream.ended:
            return
        target = self.stream_capacity - stream.held
        missing = stream.missing()
        if missing > target:
            if stream.granted - stream.held >= missing or self.grant(stream):
                target = missing
            if stream.ended:
                return
        gap = target - stream.window
        if gap >= self.stream_low or (gap > 0 and missing > stream.window):
            stream.window += gap
            self._update(stream.id, gap)

    def grant(self, stream: Stream, *, first: bool = False) -> bool:
        """Reserve room for all that a stream holds and lacks; False when it has to wait."""
        amount = stream.held + stream.missing() - stream.granted
        if amount > 0:
            if (self._pool.contended and not first) or not self._pool.reserve(amount):
                if not first:
                    self._pool.wait(stream, self)
                return False
            self._account(stream, stream.held, stream.granted + amount)
        if first:
            self.replenish_stream(stream)
            self.replenish()
        return True

    def replenish(self) -> None:
        """Open the connection's window; to be called when it is below `low`."""
        if self._held > self.low:
            for stream in tuple(self._holders):
                if self._held <= self.low or not self.grant(stream):
                    break
        target = max(self.capacity - self._held, min(self._promised, self.low))
        gap = target - self.window
        if gap >= self.low // 2 or (gap > 0 and self.window < _ENOUGH):
            self.window += gap
            self._update(0, gap)

    def forget(self, stream: Stream) -> None:
        """Free everything a stream holds."""
        self._pool.leave(stream)
        returned = stream.granted
        self._account(stream, 0, 0)
        if returned:
            self._pool.release(returned)

    def _account(self, stream: Stream, held: int, granted: int) -> None:
        self._held += max(0, held - granted) - max(0, stream.held - stream.granted)
        self._promised += max(0, granted - held) - max(0, stream.granted - stream.held)
        stream.held = held
        stream.granted = granted
        if held > granted:
            self._holders[stream] = None
        else:
            self._holders.pop(stream, None)
