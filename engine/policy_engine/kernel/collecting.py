"""Bodies that come in full duplex although policies need them whole: put together here, the headers' reply waiting.

Envoy takes no override once a side is FULL_DUPLEX_STREAMED, and answers itself with 500 to a reply of another mode. It
does not wait for the reply to headers there, so that this may come with the body: what policies of the body want of
headers, or a refusal, is in time. What is collected by all streams together is bounded.
"""

from __future__ import annotations

from policy_engine.kernel.kernel import Kernel
from policy_engine.limits import RECEIVE_BUFFER
from policy_engine.sdk import ImmediateResponse
from policy_engine.worker.chains.executor import Outcome

NO_ROOM = ImmediateResponse(503, details="policy_engine:too_many_bodies_collected")


class Collection:
    """The pieces of one body, and what the policies of its headers asked for; `size` is in bytes."""

    __slots__ = ("_kernel", "_pieces", "outcome", "size")

    def __init__(self, kernel: Kernel, outcome: Outcome) -> None:
        self.outcome = outcome
        self.size = 0
        self._kernel = kernel
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> bool:
        """Take a piece; returns whether there is room for it beside what other streams have collected."""
        statistics = self._kernel.statistics
        if statistics.collected_bytes + len(piece) > RECEIVE_BUFFER:
            return False
        statistics.collected_bytes += len(piece)
        self.size += len(piece)
        self._pieces.append(piece)
        return True

    def take(self) -> bytes:
        """Return the body and hold it no longer."""
        whole = b"".join(self._pieces)
        self.drop()
        return whole

    def drop(self) -> None:
        """Let go of what was collected."""
        self._kernel.statistics.collected_bytes -= self.size
        self.size = 0
        self._pieces.clear()
