"""A hundred configuration changes under steady load: no failed request, and everybody converges (R-21, R-22, R-54).

One Envoy and two engines, of which one speaks delta and one state of the world, that know only the control plane's
address; 200 routes. Chains and routes are added, changed, removed, broken and mended; the control plane is killed and
comes back; an engine restarts while it is away. `CHANGES` in the environment makes the run longer than 100.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from integration.harness import client
from integration.harness.client import Connection
from integration.harness.control_plane import (
    ConfigurationDirectory,
    ControlPlane,
    DiscoveringEngine,
    DiscoveringEnvoy,
    Document,
    lasting_port,
)
from integration.harness.processes import free_port
from integration.harness.upstream_process import UpstreamProcess

POLICIES = Path(__file__).parent.parent / "policies"
CHANGES = int(os.environ.get("CHANGES", "100"))
ROUTES = 200
PAUSE_S = 0.01
MAX_REQUESTS = 1_000_000

Outcome = tuple[int, str | None, str | None]
"""Status, and what the chain put on the response and on the request."""

NOT_FOUND: Outcome = (404, None, None)


class Site:
    """The configuration as it should be, and for every route what a request may see at this moment."""

    def __init__(self, port: int, upstream: int, engines: list[Path]) -> None:
        self.port = port
        self._upstream = upstream
        self._engines = engines
        self._lock = threading.Lock()
        self._marks: dict[str, str | None] = {f"r{i}": None if i % 4 == 3 else "0" for i in range(ROUTES)}
        self._allowed: dict[str, set[Outcome]] = {name: {self._outcome(mark)} for name, mark in self._marks.items()}
        self.cluster = "app-0"

    def names(self) -> list[str]:
        """Every route there is or was."""
        with self._lock:
            return list(self._allowed)

    def allowed(self, name: str) -> set[Outcome]:
        """What a request for `name` may see now."""
        with self._lock:
            return set(self._allowed[name])

    def expected(self, name: str) -> Outcome:
        """What a request for `name` sees once everybody has converged."""
        return self._outcome(self._marks[name]) if name in self._marks else NOT_FOUND

    def set(self, name: str, mark: str | None) -> None:
        """Add a route, or change what its chain writes; None is a route without a chain."""
        self._marks[name] = mark
        self._also_allow(name)

    def remove(self, name: str) -> None:
        """Remove a route."""
        del self._marks[name]
        self._also_allow(name)

    def settle(self) -> None:
        """From now on only what is configured is allowed."""
        with self._lock:
            for name in self._allowed:
                self._allowed[name] = {self.expected(name)}

    def document(self) -> Document:
        """Return the control plane's file."""
        routes = [
            {"name": name, "match": {"prefix": f"/{name}/"}, "cluster": self.cluster}
            | ({} if mark is None else {"chain": [self._policy("response", mark), self._policy("request", mark)]})
            for name, mark in self._marks.items()
        ]
        return {
            "version": "v1",
            "listeners": [{"name": "http", "address": "127.0.0.1", "port": self.port}],
            "clusters": [{"name": self.cluster, "endpoints": [f"127.0.0.1:{self._upstream}"]}],
            "engine": {"endpoints": [f"unix:{engine}" for engine in self._engines]},
            "routes": routes,
        }

    def _also_allow(self, name: str) -> None:
        with self._lock:
            self._allowed.setdefault(name, {NOT_FOUND}).add(self.expected(name))

    @staticmethod
    def _outcome(mark: str | None) -> Outcome:
        return (200, mark, mark)

    @staticmethod
    def _policy(side: str, mark: str) -> Document:
        return {"name": "set-header", "version": "v1.0.0", "parameters": {side: {"set": {"x-mark": mark}}}}


def outcome(reply: client.Reply) -> Outcome:
    """Return what a reply shows of the chain it went through."""
    if reply.status != 200:
        return (reply.status, None, None)
    headers = dict(reply.json()["headers"])
    return (200, reply.header("x-mark"), headers.get("x-mark"))


class SteadyLoad:
    """Two connections that send requests for random routes, at most one hundred a second each."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stop = threading.Event()
        self.seen: Counter[int] = Counter()
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(2)]

    def _work(self, seed: int) -> None:
        choose = random.Random(seed)
        connection = Connection(self._site.port)
        sent = 0
        while not self._stop.wait(PAUSE_S) and sent < MAX_REQUESTS:
            sent += 1
            name = choose.choice(self._site.names())
            before = self._site.allowed(name)
            try:
                found = outcome(connection.send(target=f"/{name}/x"))
            except OSError as error:
                self.failures.append(f"{time.strftime('%X')} {name}: {error!r}")
                connection.close()
                connection = Connection(self._site.port)
                continue
            self.seen[found[0]] += 1
            if found not in before | self._site.allowed(name):
                self.failures.append(f"{time.strftime('%X')} {name}: {found}, allowed {before}")
        connection.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send while the context lasts."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()


class Run:
    """The running parts and the steps of the story."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        upstream = stack.enter_context(UpstreamProcess(directory))
        self._plane_port, self._status_port = lasting_port(), lasting_port()
        self.configuration = ConfigurationDirectory(directory / "conf")
        addresses = [directory / "engine-1.sock", directory / "engine-2.sock"]
        self.site = Site(free_port(), upstream.ready(), addresses)
        self.configuration.write(self.site.document())
        self.plane = self.start_plane()
        self.engines = [self._engine(number) for number in (1, 2)]
        self.plane.ready()
        for engine in self.engines:
            engine.ready()
        self.envoy = stack.enter_context(DiscoveringEnvoy(directory, control_plane_port=self._plane_port))
        self.envoy.ready()
        self.latencies: list[float] = []
        self.plane.wait_for(lambda status: len(status["clients"]) == 3 and converged(status), "converged")

    def start_plane(self) -> ControlPlane:
        """Start the control plane, the first time or again, where it was."""
        arguments: list[str | Path] = ["--policies", POLICIES, "--expected-engines", "2"]
        ports = {"port": self._plane_port, "status_port": self._status_port}
        plane = ControlPlane(self._directory, self.configuration.path, *arguments, **ports)
        return self._stack.enter_context(plane)

    def restart_engine(self, number: int) -> None:
        """Drain an engine as a rolling restart does, and start it again."""
        self.engines[number - 1].stop()
        self.engines[number - 1] = self._engine(number)
        self.engines[number - 1].ready()

    def change(self, *names: str) -> None:
        """Write the site's configuration and wait until it is in use; then requests for `names` must show it."""
        before = self.plane.status()["configuration"]["version"]
        self.configuration.write(self.site.document())
        began = time.monotonic()
        self.plane.wait_for(lambda status: status["configuration"]["version"] != before and converged(status), "in use")
        for name in names:
            self._shows(name)
        self.latencies.append(time.monotonic() - began)
        self.site.settle()

    def refuse(self, document: Document, reason: str) -> None:
        """Write what the control plane itself refuses: nothing changes, and `status` says why."""
        before = self.plane.status()["configuration"]
        self.configuration.write(document)
        after = self.plane.wait_for(
            lambda status: status["configuration"]["rejections"] > before["rejections"], "refused"
        )
        assert after["configuration"]["version"] == before["version"]
        assert reason in "\n".join(after["configuration"]["rejected"]["diagnostics"])

    def refuse_by_engines(self, document: Document, reason: str) -> None:
        """Write what only an engine can refuse: it is taken back everywhere, and `status` says who refused and why."""
        self.configuration.write(document)
        status = self.plane.wait_for(lambda one: one["rollout"]["stage"] == "refused by an engine", "refused")
        assert reason in "\n".join(status["rollout"]["refusals"])
        self.plane.wait_for(all_current, "taken back")

    def _engine(self, number: int) -> DiscoveringEngine:
        engine = DiscoveringEngine(
            self._directory,
            f"engine-{number}",
            control_plane_port=self._plane_port,
            policies=POLICIES,
            delta=number == 1,
        )
        return self._stack.enter_context(engine)

    def _shows(self, name: str) -> None:
        """Return once four requests in a row, so that both engines are asked, show what is configured."""
        good, deadline = 0, time.monotonic() + 10.0
        while good < 4:
            found = outcome(client.send(self.site.port, target=f"/{name}/x"))
            good = good + 1 if found == self.site.expected(name) else 0
            assert time.monotonic() < deadline, f"{name} shows {found}, not {self.site.expected(name)}"


def all_current(status: Document) -> bool:
    """Whether every client has what it shall have."""
    return all(state["state"] == "current" for one in status["clients"] for state in one["types"].values())


def converged(status: Document) -> bool:
    """Whether the newest configuration is in use everywhere."""
    rollout = status["rollout"]
    return (
        rollout["stage"] == "in use"
        and rollout["version"] == status["configuration"]["version"]
        and not rollout["waiting_for"]
        and all_current(status)
    )


def with_secret(document: Document) -> Document:
    """Return `document` with a reference to a secret that engines do not have."""
    changed = json.loads(json.dumps(document))
    changed["routes"][0]["chain"][0]["parameters"]["response"]["set"]["x-mark"] = "${env:NOT_THERE}"
    return dict(changed)


def with_bad_parameter(document: Document) -> Document:
    """Return `document` with a parameter that the policy does not have."""
    changed = json.loads(json.dumps(document))
    changed["routes"][0]["chain"][0]["parameters"] = {"respnse": {}}
    return dict(changed)


def with_unknown_cluster(document: Document) -> Document:
    """Return `document` with a route to nowhere."""
    changed = json.loads(json.dumps(document))
    changed["routes"][5]["cluster"] = "nowhere"
    return dict(changed)


def step(run: Run, number: int) -> None:
    """Make one of the changes."""
    site, mark = run.site, str(number)
    target = f"r{(number * 4) % ROUTES}"
    match number % 10:
        case 0 | 2 | 6:
            site.set(target, mark)
            run.change(target)
        case 1:
            site.set(f"new-{number}", mark)
            run.change(f"new-{number}")
        case 3:
            run.refuse(with_bad_parameter(site.document()), "parameters/respnse: set-header")
        case 4:  # mended, and a route that had no chain gets one
            site.set(f"r{number % ROUTES // 4 * 4 + 3}", mark)
            run.change(f"r{number % ROUTES // 4 * 4 + 3}")
        case 5:
            site.cluster = f"app-{number}"
            run.change(target)
        case 7:
            run.refuse_by_engines(with_secret(site.document()), "NOT_THERE")
        case 8:  # mended, and the route of 1 is gone again
            site.remove(f"new-{number - 7}")
            run.change(f"new-{number - 7}")
        case 9:
            run.refuse(with_unknown_cluster(site.document()), "there is no cluster 'nowhere'")


def outage(run: Run) -> None:
    """The control plane dies; an engine restarts without it; a file is changed meanwhile; it comes back."""
    run.plane.stop(sign=signal.SIGKILL)
    run.restart_engine(2)
    run.site.set("r0", "outage")
    run.configuration.write(run.site.document())
    time.sleep(3.0)
    run.plane = run.start_plane()
    run.plane.listening()
    run.plane.wait_for(lambda status: len(status["clients"]) == 3 and converged(status), "back", timeout_s=60.0)
    run._shows("r0")
    run.site.settle()


def test_changes_under_load(record_property: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="cc-", dir="/tmp") as name, ExitStack() as stack:
        run = Run(Path(name), stack)
        load = SteadyLoad(run.site)
        with load.running():
            for number in range(1, CHANGES + 1):
                step(run, number)
                if number == CHANGES // 2:
                    outage(run)
            run.change() if CHANGES % 10 in (3, 7, 9) else None
            time.sleep(1.0)
        assert not load.failures, load.failures[:20]
        assert load.seen[200] > CHANGES
        median, most = statistics.median(run.latencies), max(run.latencies)
        report = (
            f"{CHANGES} changes, {load.seen.total()} requests; saved file to effect: {median:.3f} s, most {most:.3f} s"
        )
        record_property("report", report)
        with capsys.disabled():
            print(f"\n{report}")
