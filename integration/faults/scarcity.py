"""What the machine runs out of: file descriptors, and space for logs and saved chains."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from integration.faults.changes import discovered, route
from integration.faults.scenario import Measured, Promise, Scenario, Terms
from integration.faults.site import loaded, site
from integration.faults.workers import holding
from integration.harness.chain_file import policy
from integration.runtime_stack import TEST_POLICIES

_SHORT_S = 5.0
_IDLE = 300
_MOST_LINES = 50
_SPARE = 4


@contextlib.contextmanager
def _limited(pids: list[int], kind: int, soft: dict[int, int]) -> Iterator[None]:
    before = {pid: resource.prlimit(pid, kind) for pid in pids}
    for pid in pids:
        resource.prlimit(pid, kind, (soft[pid], before[pid][1]))
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, kind, before[pid])


def descriptors(terms: Terms) -> Measured:
    """Idle connections take every file descriptor of the worker processes."""
    with site(holding(), TEST_POLICIES, terms.engines) as running, running.loaded(terms) as course:
        workers = running.workers()
        soft = {pid: len(list(Path(f"/proc/{pid}/fd").iterdir())) + _SPARE for pid in workers}
        lines = len(running.engines[0].log().splitlines())
        with contextlib.ExitStack() as stack:
            stack.enter_context(_limited(workers, resource.RLIMIT_NOFILE, soft))
            for number in range(_IDLE):
                connection = stack.enter_context(socket.socket(socket.AF_UNIX))
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    connection.connect(str(running.addresses(1)[number % len(workers)]))
            time.sleep(_SHORT_S)
        course.fault_ends()
        course.whole_again(running.ready, "ready")
        running.healthy_for_envoy()
        new = running.engines[0].log().splitlines()[lines:]
        course.expect(len(new) <= _MOST_LINES, f"{len(new)} log lines")
        course.expect(any("accepting_paused" in one for one in new), "no log line says that accepting pauses")
    return course.measured()


def disk(terms: Terms) -> Measured:
    """No file may grow: neither the log nor the saved chains; the chains change meanwhile."""
    marked = policy("set-header", "v1", {"request": {"set": {"x-plain": "1"}}})
    with discovered(terms.engines) as running, loaded(running.port, terms) as course:
        pids = [pid for engine in running.engines for pid in _with_children(engine.pid)]
        with _limited(pids, resource.RLIMIT_FSIZE, dict.fromkeys(pids, 0)):
            running.write(route("meanwhile", marked))
            course.whole_again(lambda: running.shows("meanwhile") and running.ready(), "the change active")
            time.sleep(_SHORT_S)
        course.fault_ends()
        running.write(route("meanwhile", marked), route("after", marked))
        course.whole_again(lambda: running.shows("after") and running.ready(), "the change after it active")
        course.expect(all(engine.running() for engine in running.engines), "an engine ended")
    return course.measured()


def _with_children(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *map(int, children)]


SCENARIOS = (
    Scenario(
        name="descriptors",
        fault="file descriptors used up by 300 idle connections",
        run=descriptors,
        promise=Promise(failed=0, recovered=8.0, also=f"at most {_MOST_LINES} log lines"),
    ),
    Scenario(
        name="disk-full",
        fault="no file may grow for 5 s, and the chains change",
        run=disk,
        promise=Promise(failed=0, recovered=8.0),
    ),
)
