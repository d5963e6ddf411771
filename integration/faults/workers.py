"""Faults of one worker process: killed, stopped, held in C code, held in a pattern."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import replace

from integration.faults.scenario import ONE_PERCENT, Measured, Promise, Scenario, Terms
from integration.faults.site import Site, site
from integration.harness import client
from integration.harness.chain_file import Document, chain, chains, policy
from integration.runtime_stack import TEST_POLICIES


def holding(how: str = "characters") -> Document:
    """Return the chains: `r` marks its requests, `h` holds the event loop when a request asks for it."""
    held = policy("holding", "v1", {"how": how}, timeout="300ms")
    return chains(chain("r", policy("holding", "v1")), chain("h", held))


def _hold(running: Site, times: int = 1) -> None:
    for _ in range(times):
        with client.Connection(running.port, timeout_s=0.3) as connection, suppress(OSError):
            connection.send("GET", "/h/x", headers=[("x-hold", "1")])


def _signalled(terms: Terms, number: signal.Signals) -> Measured:
    with site(holding(), TEST_POLICIES, terms.engines) as running:
        victim = running.workers()[0]
        with running.loaded(terms) as course:
            os.kill(victim, number)
            course.whole_again(lambda: victim not in running.workers() and running.ready(), "replaced")
    return course.measured()


def killed(terms: Terms) -> Measured:
    """SIGKILL."""
    return _signalled(terms, signal.SIGKILL)


def stopped(terms: Terms) -> Measured:
    """SIGSTOP, and nobody sends SIGCONT."""
    return _signalled(terms, signal.SIGSTOP)


def hung(terms: Terms) -> Measured:
    """A policy holds the event loop in C code that cannot be interrupted."""
    with site(holding(), TEST_POLICIES, terms.engines) as running:
        before = [set(running.workers(number)) for number in range(terms.engines)]

        def replaced() -> bool:
            now = [set(running.workers(number)) for number in range(terms.engines)]
            return now != before and running.ready()

        with running.loaded(terms) as course:
            _hold(running)
            course.whole_again(replaced, "replaced")
            hangs = sum(running.count("policy_engine_worker_hangs_total", number) for number in range(terms.engines))
            course.expect(hangs == 1, f"{hangs:g} hangs counted, 1 expected")
    return course.measured()


def pattern(terms: Terms) -> Measured:
    """Four requests whose policy runs a pattern that never ends."""
    with site(holding("pattern"), TEST_POLICIES, terms.engines) as running:
        workers = running.workers()
        with running.loaded(terms) as course:
            _hold(running, 4)
            course.whole_again(running.ready, "ready")
            course.expect(running.workers() == workers, "a worker process was replaced")
    return course.measured()


_AT_WORK = Promise(failed=8, recovered=8.0, also="what it was working on")
_REPLACED = Promise(failed=ONE_PERCENT, recovered=8.0)
_ONE_ENGINE = (
    Scenario(name="worker-killed", fault="one worker process killed", run=killed, promise=_AT_WORK),
    Scenario(name="worker-stopped", fault="one worker process stopped (SIGSTOP)", run=stopped, promise=_REPLACED),
    Scenario(name="worker-hung", fault="one worker process hung in C code", run=hung, promise=_REPLACED),
)
SCENARIOS = (
    *_ONE_ENGINE,
    *(replace(one, name=f"{one.name}-of-two", engines=2) for one in _ONE_ENGINE),
    Scenario(
        name="worker-pattern",
        fault="four requests with a pattern in `re` that never ends",
        run=pattern,
        promise=Promise(failed=0, recovered=8.0, also="but those four"),
    ),
)
