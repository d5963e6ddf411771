"""Allowances for frames that cost work and advance no request: the defence against floods (RFC 9113 §10.5).

A token bucket that looks at the clock only when it is empty, so that a well-behaved peer never pays for it.
"""

from __future__ import annotations

from collections.abc import Callable

from policy_engine.transport.native.errors import ConnectionFault, ErrorCode


class Allowance:
    """`burst` at once, then `per_second`; `spend` ends the connection with ENHANCE_YOUR_CALM when it is overdrawn."""

    __slots__ = ("_burst", "_clock", "_name", "_per_second", "_since", "_tokens")

    def __init__(self, name: str, burst: int, per_second: int, clock: Callable[[], float]) -> None:
        self._name = name
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._since = clock()
        self._tokens = burst

    def spend(self) -> None:
        """Take one; raises ConnectionFault when there is none."""
        self._tokens -= 1
        if self._tokens < 0:
            self._refill()

    def _refill(self) -> None:
        now = self._clock()
        earned = int((now - self._since) * self._per_second)
        if earned <= 0:
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"too many {self._name}: more than {self._burst} at once and {self._per_second} a second",
            )
        self._since = now
        self._tokens = min(self._burst, earned) - 1


class Allowances:
    """The allowances of one connection.

    A stream that the client resets before any answer costs what a request costs (some 10 µs) and leaves no work behind:
    its task is cancelled, and one that does not end yet still counts as a stream. So the rapid reset allowance
    (CVE-2023-44487) only has to keep such work a small share of a core, and is wide enough for an Envoy whose
    thousands of requests in flight time out together.
    """

    __slots__ = ("empty_frames", "faults", "pings", "premature_resets", "settings", "window_updates")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.settings = Allowance("SETTINGS frames", 200, 20, clock)
        self.pings = Allowance("PING frames", 2000, 500, clock)
        self.empty_frames = Allowance("frames without effect", 2000, 500, clock)
        self.window_updates = Allowance("WINDOW_UPDATE frames", 50_000, 50_000, clock)
        self.premature_resets = Allowance("streams reset before an answer", 20_000, 2000, clock)
        self.faults = Allowance("faulty streams", 1000, 100, clock)
