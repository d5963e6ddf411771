"""Memory of the engine while many bodies at and over the limit are pushed at it: a curve that flattens (R-09)."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from integration.harness.exchange import Answer
from integration.runtime_stack import Runtime, eventually, generated, resident_bytes, scripted

MIB = 1 << 20
BODY_LIMIT = 4 * MIB
AT_ONCE = (1, 16, 128)
RECEIVE_BUFFER = 256 * MIB
"""What the engine lets all clients together have in it of messages that are not answered (`receive_buffer_bytes`)."""
SLACK = 128 * MIB

Script = dict[str, object]


def waiting(seconds: float) -> Script:
    """A script that keeps the body while it waits; nothing of it has to reach the upstream."""
    return {"wait": seconds, "respond": {"status": 418}}


CHAINS = {
    "request": [scripted(request_body=waiting(0.2))],
    "piles-up": [scripted(request_body=waiting(2))],
    "response": [scripted(response_body=waiting(0.2))],
}


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    # The native transport: grpcio has no bound on what all clients together have in it.
    with generated(CHAINS, settings={"BODY_LIMIT": str(BODY_LIMIT)}) as runtime:
        eventually(lambda: runtime.send("/request/", method="POST", body=b"x").status == 418, "serving")
        yield runtime


def peak(runtime: Runtime, act: Callable[[], object]) -> int:
    """Return the most memory that the engine had while `act` ran."""
    seen = [resident_bytes(runtime.engine.pid)]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            seen.append(resident_bytes(runtime.engine.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        act()
    finally:
        stop.set()
        watcher.join()
    return max(seen)


def statuses(runtime: Runtime, route: str, at_once: int, body: Callable[[], bytes | Iterable[bytes]]) -> Counter[int]:
    """Send that many requests at the same time and count the statuses of their responses, 413 also for one cut off.

    Envoy answers 413 while the client still sends, and reads no more of a client that is slow to take note.
    """

    def status(_: int) -> int:
        try:
            return runtime.send(f"/{route}/", method="POST", body=body()).status
        except ConnectionError:
            return 413

    with ThreadPoolExecutor(at_once) as pool:
        return Counter(pool.map(status, range(at_once)))


def test_bodies_at_and_over_the_limit_take_bounded_memory(runtime: Runtime) -> None:
    whole, over = b"x" * BODY_LIMIT, b"x" * (BODY_LIMIT + 1)
    idle = resident_bytes(runtime.engine.pid)
    curve = {}
    for at_once in AT_ONCE:
        outcomes: Counter[int] = Counter()

        def push(at_once: int = at_once, outcomes: Counter[int] = outcomes) -> None:
            route = "piles-up" if at_once == max(AT_ONCE) else "request"
            outcomes += statuses(runtime, route, at_once, lambda: whole)
            outcomes += statuses(runtime, "request", at_once, lambda: over)
            outcomes += statuses(runtime, "request", at_once, lambda: iter([over]))

        curve[at_once] = peak(runtime, push) - idle
        assert outcomes == Counter({418: at_once, 413: 2 * at_once})
    eventually(lambda: runtime.active() == 0, "without streams")
    print({at_once: f"{grown / MIB:.0f} MiB" for at_once, grown in curve.items()}, file=sys.stderr)
    # 128 bodies are 512 MiB: what does not fit waits in Envoy.
    assert BODY_LIMIT * max(AT_ONCE) > RECEIVE_BUFFER + SLACK
    assert curve[max(AT_ONCE)] < RECEIVE_BUFFER + SLACK, curve


def test_response_bodies_take_bounded_memory(runtime: Runtime) -> None:
    idle = resident_bytes(runtime.engine.pid)
    outcomes: Counter[int] = Counter()

    def push() -> None:
        for size in (BODY_LIMIT, BODY_LIMIT + 1):
            runtime.upstream.answer_with(Answer(chunks=[b"y" * size]))
            outcomes.update(statuses(runtime, "response", 64, lambda: b""))

    grown = peak(runtime, push) - idle
    assert outcomes == Counter({418: 64, 502: 64})
    print(f"{grown / MIB:.0f} MiB", file=sys.stderr)
    assert grown < RECEIVE_BUFFER + SLACK
