"""How late the event loop of a worker process runs what is due: what held it, held every request of the process.

A plain histogram, so that several worker processes add up and no wait between two scrapes is missed.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left

from policy_engine.telemetry.samples import Samples

INTERVAL_SECONDS = 0.1
BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
"""Upper bounds in seconds; 20 ms is what nothing may hold the loop for."""
_NAME = "policy_engine_event_loop_delay_seconds"


class LoopDelay:
    """Asks the loop to wake it at regular times, and counts by how much later it was woken."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one delay."""
        self._counts[bisect_left(BUCKETS, seconds)] += 1
        self._seconds += seconds

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + INTERVAL_SECONDS
            await asyncio.sleep(INTERVAL_SECONDS)
            self.observe(max(0.0, loop.time() - due))

    def samples(self) -> Samples:
        """Return the histogram."""
        seen, rows = 0, []
        for bound, count in zip((*map("{:g}".format, BUCKETS), "+Inf"), self._counts, strict=True):
            seen += count
            rows.append(({"le": bound}, float(seen)))
        return {f"{_NAME}_bucket": rows, f"{_NAME}_sum": [({}, self._seconds)]}
