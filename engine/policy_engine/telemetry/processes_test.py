"""What is read of processes is what they are; one that has ended is left out."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from policy_engine.telemetry.loop_delay import BUCKETS, LoopDelay
from policy_engine.telemetry.processes import process_samples

_CPU = "policy_engine_process_cpu_seconds"
_MEMORY = "policy_engine_process_resident_memory_bytes"
_FILES = "policy_engine_process_open_fds"


def test_open_files_and_memory_are_those_of_the_process() -> None:
    before = process_samples({"me": os.getpid()})
    held = bytearray(os.urandom(1 << 20)) * 32
    pipes = [os.pipe() for _ in range(50)]
    after = process_samples({"me": os.getpid()})
    for ends in pipes:
        for one in ends:
            os.close(one)
    # What tests before this one left behind may be closed in between.
    labels, files = after[_FILES][0]
    assert labels == {"process": "me"}
    assert abs(files - before[_FILES][0][1] - 100) <= 10
    assert after[_MEMORY][0][1] > before[_MEMORY][0][1] + len(held) // 2
    assert after[_CPU][0][1] >= before[_CPU][0][1] >= 0


def test_one_that_has_ended_is_left_out() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert [labels for labels, _ in process_samples({"gone": gone.pid, "me": os.getpid()})[_CPU]] == [{"process": "me"}]


def test_a_program_may_have_any_name(tmp_path: Path) -> None:
    directory = tmp_path / "7"
    (directory / "fd").mkdir(parents=True)
    (directory / "fd" / "0").touch()
    ticks = os.sysconf("SC_CLK_TCK")
    fields = f"S 1 7 7 0 -1 0 0 0 0 0 {ticks} {2 * ticks} 0 0 20 0"
    (directory / "stat").write_text(f"7 (a) R 9 (b) {fields}\n")
    (directory / "statm").write_text("100 10 5 1 0 20 0\n")
    samples = process_samples({"odd": 7}, tmp_path)
    assert samples == {
        _CPU: [({"process": "odd"}, 3.0)],
        _MEMORY: [({"process": "odd"}, 10 * os.sysconf("SC_PAGE_SIZE"))],
        _FILES: [({"process": "odd"}, 1)],
    }


def test_a_loop_that_is_held_is_late_for_as_long() -> None:
    delay = LoopDelay()

    async def held() -> None:
        measuring = asyncio.ensure_future(delay.run())
        await asyncio.sleep(0.05)
        time.sleep(0.6)  # noqa: ASYNC251 - it is to hold the loop
        await asyncio.sleep(0.05)
        measuring.cancel()

    asyncio.run(held())
    rows = {labels["le"]: value for labels, value in delay.samples()["policy_engine_event_loop_delay_seconds_bucket"]}
    assert rows["+Inf"] > rows["0.25"]
    assert len(rows) == len(BUCKETS) + 1
