"""Changes of the chains meanwhile: files and control plane, valid, refused, half written; the control plane gone."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from integration.faults.scenario import Measured, Promise, Scenario, Terms
from integration.faults.site import PATIENCE_S, POLICIES, WORKERS, Course, loaded, site, until
from integration.harness import client
from integration.harness.chain_file import Document, chain, chains, policy
from integration.harness.control_plane import (
    ConfigurationDirectory,
    ControlPlane,
    DiscoveringEngine,
    DiscoveringEnvoy,
    lasting_port,
)
from integration.harness.processes import free_port
from integration.harness.upstream_process import UpstreamProcess

CHANGES = 10
MARKED = policy("set-header", "v1", {"request": {"set": {"x-mark": "1"}}})
_PLAIN = policy("set-header", "v1", {"request": {"set": {"x-plain": "1"}}})
_REFUSED = policy("set-header", "v1", {"respnse": {}})
_PAUSES_S = (0.06, 0.1, 0.15, 0.2)


def _document(*more: Document) -> Document:
    return chains(chain("r", _PLAIN, MARKED), *more)


def file_changed(terms: Terms) -> Measured:
    """The chain file is replaced, by turns with what is valid and with what is not."""
    with site(_document(), POLICIES, terms.engines) as running, running.loaded(terms) as course:
        for number in range(CHANGES):
            running.chains.write(_document(chain(f"refused-{number}", _REFUSED)))
            time.sleep(0.2)
            running.chains.write(_document(chain(f"new-{number}", _PLAIN)))
            time.sleep(0.2)
        course.fault_ends()
        course.whole_again(lambda: running.active(f"new-{CHANGES - 1}") and running.ready(), "the last change active")
        running.chains.write(_document(chain("refused", _REFUSED)))
        until(lambda: all(one.admin.history()["rejected"] for one in running.engines), "refused")
        course.expect(not running.active("refused"), "what was refused is active")
    return course.measured()


def file_written_in_place(terms: Terms) -> Measured:
    """The chain file is written in place, with a pause where what stands there is a shorter valid chain."""
    first, second = (yaml.safe_dump([one], sort_keys=False) for one in (_PLAIN, MARKED))
    head = "version: v1\nroutes:\n- route_key: r\n  policies:\n"
    parts = [head + _indented(first), _indented(second)]
    with site(_document(), POLICIES, terms.engines) as running, running.loaded(terms) as course:
        for turn, pause in enumerate(_PAUSES_S * 3):
            with running.chains.path.open("w", encoding="utf-8") as file:
                file.write(f"# {turn}\n{parts[0]}")
                file.flush()
                time.sleep(pause)
                file.write(parts[1])
            time.sleep(0.3)
        running.chains.write(_document(chain("last", _PLAIN)))
        course.fault_ends()
        course.whole_again(lambda: running.active("last") and running.ready(), "the last change active")
    return course.measured()


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


@dataclass(slots=True)
class Discovered:
    """Engines and Envoy that know only the control plane; `write` changes its file."""

    directory: Path
    stack: ExitStack
    configuration: ConfigurationDirectory
    engines: list[DiscoveringEngine]
    plane_port: int
    port: int
    upstream: int
    plane: ControlPlane | None = None

    def write(self, *routes: Document) -> None:
        """Replace the file: the route under load, and these."""
        sockets = [
            self.directory / f"{engine.node_id}-w{worker}.sock" for engine in self.engines for worker in range(WORKERS)
        ]
        self.configuration.write(
            {
                "version": "v1",
                "listeners": [{"name": "http", "address": "127.0.0.1", "port": self.port}],
                "clusters": [{"name": "app", "endpoints": [f"127.0.0.1:{self.upstream}"]}],
                "engine": {"endpoints": [f"unix:{one}" for one in sockets]},
                "routes": [route("r", _PLAIN, MARKED), *routes],
            }
        )

    def start_plane(self) -> ControlPlane:
        """Start the control plane, the first time or again."""
        arguments: list[str | Path] = ["--policies", POLICIES]
        plane = ControlPlane(self.directory, self.configuration.path, *arguments, port=self.plane_port)
        self.plane = self.stack.enter_context(plane)
        return plane

    def shows(self, route: str) -> bool:
        """Tell whether requests reach a route through Envoy and its chain through the engines."""
        return client.send(self.port, target=f"/{route}/x").status == 200

    def ready(self) -> bool:
        """Tell whether every engine is."""
        return all(engine.admin.is_ready() for engine in self.engines)


def route(name: str, *chain: Document) -> Document:
    """Return a route of the control plane's file."""
    return {"name": name, "match": {"prefix": f"/{name}/"}, "cluster": "app", "chain": list(chain)}


@contextmanager
def discovered(engines: int) -> Iterator[Discovered]:
    """Run a control plane, so many engines, and Envoy."""
    with tempfile.TemporaryDirectory(prefix="ft-", dir="/tmp") as name, ExitStack() as stack:
        directory = Path(name)
        upstream = stack.enter_context(UpstreamProcess(directory)).ready()
        configuration = ConfigurationDirectory(directory / "conf")
        running = Discovered(directory, stack, configuration, [], lasting_port(), free_port(), upstream)
        for number in range(engines):
            node = f"engine-{number}"
            env = {
                "POLICY_ENGINE_WORKERS": str(WORKERS),
                "POLICY_ENGINE_LISTEN": f"unix:{directory}/{node}-w{{worker}}.sock",
            }
            engine = DiscoveringEngine(
                directory, node, control_plane_port=running.plane_port, policies=POLICIES, env=env
            )
            running.engines.append(stack.enter_context(engine))
        running.write()
        plane = running.start_plane()
        plane.wait_until(lambda: client.send(plane.status_port, target="/readyz").status == 200, what="ready")
        for engine in running.engines:
            engine.wait_until(engine.admin.is_ready, what="ready", timeout_s=PATIENCE_S)
        stack.enter_context(DiscoveringEnvoy(directory, control_plane_port=running.plane_port)).ready()
        until(lambda: running.shows("r"), "serving")
        yield running


def control_plane_changed(terms: Terms) -> Measured:
    """The control plane's file is replaced, by turns with what is valid and with what is not."""
    with discovered(terms.engines) as running, loaded(running.port, terms) as course:
        for number in range(CHANGES):
            running.write(route(f"refused-{number}", _REFUSED))
            time.sleep(0.3)
            running.write(route(f"new-{number}", _PLAIN))
            time.sleep(0.3)
        _last_one_shows(running, course, f"new-{CHANGES - 1}")
    return course.measured()


def control_plane_gone(terms: Terms) -> Measured:
    """The control plane is killed; its file changes meanwhile; it comes back after five seconds."""
    with discovered(terms.engines) as running, loaded(running.port, terms) as course:
        assert running.plane is not None
        running.plane.stop(sign=signal.SIGKILL)
        running.write(route("meanwhile", _PLAIN))
        time.sleep(5.0)
        running.start_plane().listening()
        _last_one_shows(running, course, "meanwhile")
    return course.measured()


def _last_one_shows(running: Discovered, course: Course, name: str) -> None:
    course.fault_ends()
    course.whole_again(lambda: running.shows(name) and running.ready(), "the last change active")


_NOTHING = Promise(failed=0, recovered=8.0)
SCENARIOS = (
    Scenario(
        name="file-changed",
        fault="the chain file replaced, valid and invalid by turns",
        run=file_changed,
        promise=_NOTHING,
    ),
    Scenario(
        name="file-changed-for-two",
        fault="the same, read by two engines",
        run=file_changed,
        promise=_NOTHING,
        engines=2,
    ),
    Scenario(
        name="file-in-place",
        fault="the chain file written in place, with pauses between two policies",
        run=file_written_in_place,
        promise=_NOTHING,
    ),
    Scenario(
        name="control-plane-changed",
        fault="the control plane's file replaced, valid and invalid by turns",
        run=control_plane_changed,
        promise=_NOTHING,
        engines=2,
    ),
    Scenario(
        name="control-plane-gone",
        fault="the control plane gone for 5 s, and changed meanwhile",
        run=control_plane_gone,
        promise=Promise(failed=0, recovered=20.0),
        engines=2,
    ),
)
