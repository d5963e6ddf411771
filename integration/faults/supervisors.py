"""Faults of the whole engine: its supervisor stopped, terminated, killed; a rolling restart; signals to its group."""

from __future__ import annotations

import os
import signal
import time

from integration.faults.scenario import Measured, Promise, Scenario, Terms
from integration.faults.site import PATIENCE_S, site
from integration.faults.workers import holding
from integration.runtime_stack import TEST_POLICIES

_STOPPED_S = 4.0
_UPGRADE_RATE = 500.0
_NOTICED_S = 2.0
_STRAY = (
    *(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO),
    *(signal.SIGTSTP, signal.SIGQUIT, signal.SIGRTMIN, signal.SIGRTMAX),
)


def stopped(terms: Terms) -> Measured:
    """SIGSTOP, and SIGCONT some seconds later."""
    with site(holding(), TEST_POLICIES, terms.engines) as running, running.loaded(terms) as course:
        os.kill(running.engines[0].pid, signal.SIGSTOP)
        time.sleep(_STOPPED_S)
        os.kill(running.engines[0].pid, signal.SIGCONT)
        course.fault_ends()
        course.whole_again(running.ready, "ready")
    return course.measured()


def _ended(terms: Terms, number: signal.Signals) -> Measured:
    with site(holding(), TEST_POLICIES, terms.engines) as running, running.loaded(terms) as course:
        engine = running.engines[0]
        os.kill(engine.pid, number)
        status = engine.wait(PATIENCE_S)
        course.expect(number is signal.SIGKILL or status == 0, f"ended with {status}")
        time.sleep(_NOTICED_S)
        running.start(0)  # as an orchestrator does
        course.fault_ends()
        running.healthy_for_envoy()
        course.whole_again(running.ready, "ready")
    return course.measured()


def terminated(terms: Terms) -> Measured:
    """SIGTERM: it drains; another is started in its place."""
    return _ended(terms, signal.SIGTERM)


def killed(terms: Terms) -> Measured:
    """SIGKILL: its worker processes end with it; another is started in its place."""
    return _ended(terms, signal.SIGKILL)


def rolled(terms: Terms) -> Measured:
    """One engine after the other is terminated and started again."""
    with site(holding(), TEST_POLICIES, terms.engines) as running, running.loaded(terms) as course:
        for number in range(terms.engines):
            status = running.engines[number].stop(timeout_s=PATIENCE_S)
            course.expect(status == 0, f"ended with {status}")
            running.start(number)
            running.healthy_for_envoy()
        course.fault_ends()
        course.whole_again(running.ready, "ready")
    return course.measured()


def upgraded(terms: Terms) -> Measured:
    """`policy-engine upgrade`, twice, of the only engine, under more load than other faults have."""
    with site(holding(), TEST_POLICIES, terms.engines) as running, running.loaded(terms, rate=_UPGRADE_RATE) as course:
        engine = running.engines[0]
        for _ in range(2):
            status, output = engine.upgrade()
            course.expect(status == 0, output)
        course.fault_ends()
        course.expect(engine.wait(PATIENCE_S) == 0, "the first engine did not end well")
        course.whole_again(running.ready, "ready")
    return course.measured()


def signalled(terms: Terms) -> Measured:
    """Every signal that ends or stops a process that does not care, to the whole process group."""
    with site(holding(), TEST_POLICIES, terms.engines) as running:
        workers = running.workers()
        with running.loaded(terms) as course:
            for number in _STRAY:
                time.sleep(0.3)
                os.killpg(running.engines[0].pid, number)
            course.whole_again(running.ready, "ready")
            course.expect(running.workers() == workers, "a worker process was replaced")
    return course.measured()


_DENIED = Promise(failed=None, recovered=8.0)
SCENARIOS = (
    Scenario(
        name="supervisor-stopped",
        fault="the supervisor stopped for 4 s",
        run=stopped,
        promise=Promise(failed=0, recovered=8.0),
    ),
    Scenario(name="supervisor-terminated", fault="the only engine terminated", run=terminated, promise=_DENIED),
    Scenario(
        name="supervisor-terminated-of-two",
        fault="one engine of two terminated",
        run=terminated,
        promise=Promise(failed=0, recovered=8.0),
        engines=2,
    ),
    Scenario(name="supervisor-killed", fault="the only engine's supervisor killed", run=killed, promise=_DENIED),
    Scenario(
        name="supervisor-killed-of-two",
        fault="the supervisor of one engine of two killed",
        run=killed,
        promise=Promise(failed=16, recovered=8.0, also="what its worker processes were working on"),
        engines=2,
    ),
    Scenario(
        name="rolling-restart",
        fault="a rolling restart of two engines",
        run=rolled,
        promise=Promise(failed=0, recovered=8.0),
        engines=2,
    ),
    Scenario(
        name="engine-upgraded",
        fault=f"the only engine upgraded, twice, under {_UPGRADE_RATE:g} requests/s",
        run=upgraded,
        promise=Promise(failed=0, recovered=8.0),
    ),
    Scenario(
        name="signals",
        fault="signals to the whole process group",
        run=signalled,
        promise=Promise(failed=0, recovered=8.0),
    ),
)
