"""Engines of two worker processes behind a real Envoy with the configuration that `envoy-config` writes; and a load."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from integration.faults.scenario import RATE, Measured, Terms
from integration.harness import client
from integration.harness.chain_file import ChainFile, Document
from integration.harness.engine import EngineProcess
from integration.harness.envoy import Envoy
from integration.harness.exchange import HeaderList
from integration.harness.generated_envoy import envoy_for
from integration.harness.steady_load import SteadyLoad
from integration.harness.upstream_process import UpstreamProcess
from policy_engine.envoy.filter_config import ENGINE_CLUSTER

WORKERS = 2
MARK = '"x-mark"'
"""What the chain under load adds to its requests; the upstream's answer shows it."""
PATIENCE_S = 60.0
"""How long anything is waited for, far above every promise, so that a breach is measured and not cut off."""
_BEFORE_S = 2.0
_AFTER_S = 2.0
_POLL_S = 0.05

POLICIES = Path(__file__).parent.parent.parent / "policies"


class NotReachedError(RuntimeError):
    """A state that a scenario waits for never came; the message has the engine's last log lines."""


def until(holds: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    """Return once `holds()`; a page that cannot be read means "not yet". Raises NotReachedError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except (OSError, ValueError):  # a page that breaks off
            pass
        if time.monotonic() > deadline:
            raise NotReachedError(f"not {what} after {seconds:g} s")
        time.sleep(_POLL_S)


@dataclass(slots=True)
class Course:
    """A load while a fault takes its course; times are monotonic."""

    load: SteadyLoad
    over: float
    restored: float | None = None
    wrong: list[str] = field(default_factory=list)

    def fault_ends(self) -> None:
        """From now on, what is broken has to come back; without this call, from the fault's beginning on."""
        self.over = time.monotonic()

    def whole_again(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until the engines are whole again, which counts as recovered; never is a breach."""
        try:
            until(holds, what)
        except NotReachedError as error:
            self.wrong.append(str(error))
        self.restored = time.monotonic()

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note `otherwise` as wrong unless it holds."""
        if not holds:
            self.wrong.append(otherwise)

    def measured(self) -> Measured:
        """Return what it cost; to be called when the load has ended."""
        return Measured.of(self.load.sent, self.over, self.restored, self.wrong)


@contextmanager
def loaded(
    port: int, terms: Terms, target: str = "/r/x", headers: HeaderList = (), rate: float = RATE
) -> Iterator[Course]:
    """Keep the load up: a little before the fault, which the context is, and after it for as long as `terms` say."""
    began = time.monotonic()
    with SteadyLoad(port, target, rate, headers=headers, mark=MARK) as load:
        time.sleep(_BEFORE_S)
        course = Course(load, over=time.monotonic())
        yield course
        time.sleep(max(_AFTER_S, began + terms.seconds - time.monotonic()))


@dataclass(slots=True)
class Site:
    """The running parts; `start` begins an engine, the first time or again, where it was."""

    directory: Path
    chains: ChainFile
    policies: Path
    env: Mapping[str, str]
    hosts: Path | None = None
    engines: list[EngineProcess] = field(default_factory=list)
    envoy: Envoy | None = None

    @property
    def port(self) -> int:
        """Where Envoy takes requests."""
        assert self.envoy is not None
        return self.envoy.port

    def own(self, number: int) -> Path:
        """Return the directory of an engine."""
        return self.directory / str(number)

    def addresses(self, engines: int) -> list[Path]:
        """Return the Unix socket of each worker process of so many engines."""
        return [self.own(engine) / f"w{worker}.sock" for engine in range(engines) for worker in range(WORKERS)]

    def start(self, number: int) -> EngineProcess:
        """Start engine `number` and return when it is ready."""
        own = self.own(number)
        own.mkdir(exist_ok=True)
        env = {
            "POLICY_ENGINE_WORKERS": str(WORKERS),
            "POLICY_ENGINE_LISTEN": f"unix:{own}/w{{worker}}.sock",
            "POLICY_ENGINE_UPGRADE_SOCKET": f"{own}/upgrade.sock",
            **self.env,
        }
        engine = EngineProcess(own, chains=self.chains.path, policies=self.policies, env=env, hosts=self.hosts)
        self.engines[number : number + 1] = [engine]
        engine.wait_until(engine.admin.is_ready, what="ready", timeout_s=PATIENCE_S)
        return engine

    def workers(self, number: int = 0) -> list[int]:
        """Return the process ids of those of an engine that serve."""
        return [one.get("pid", 0) for one in self.engines[number].admin.document("/workers")["processes"]]

    def count(self, sample: str, number: int = 0) -> float:
        """Return the sum of a metric's samples in one engine."""
        return sum(self.engines[number].admin.samples(sample).values())

    def ready(self) -> bool:
        """Tell whether every engine is."""
        return all(engine.admin.is_ready() for engine in self.engines)

    def healthy_for_envoy(self) -> None:
        """Return when Envoy finds every worker process healthy, as an orchestrator waits before it goes on."""
        envoy, all_of_them = self.envoy, len(self.engines) * WORKERS
        assert envoy is not None
        name = f"cluster.{ENGINE_CLUSTER}.membership_healthy"
        until(lambda: envoy.counter(name) == all_of_them, "healthy for Envoy")

    def active(self, route: str) -> bool:
        """Tell whether every engine's configuration has the route."""
        documents = [engine.admin.document("/chains") for engine in self.engines]
        return all(route in {one["route_key"] for one in document["routes"]} for document in documents)

    def loaded(self, terms: Terms, *, headers: HeaderList = (), rate: float = RATE) -> AbstractContextManager[Course]:
        """Put the load on Envoy."""
        return loaded(self.port, terms, headers=headers, rate=rate)


@contextmanager
def site(
    document: Document,
    policies: Path,
    engines: int = 1,
    *,
    headers: HeaderList = (),
    hosts: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Site]:
    """Run so many engines with these chains, behind Envoy; `headers` are what a request for route `r` needs."""
    # The path of a Unix socket must be short (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="ft-", dir="/tmp") as name, ExitStack() as stack:
        directory = Path(name)
        running = Site(directory, ChainFile(directory / "chains.yaml"), policies, env or {}, hosts)
        running.chains.write(document)
        stack.callback(lambda: [engine.stop() for engine in running.engines])
        for number in range(engines):
            running.start(number)
        upstream = stack.enter_context(UpstreamProcess(directory)).ready()
        addresses: Sequence[int | Path] = running.addresses(engines)
        running.envoy = stack.enter_context(envoy_for(directory, addresses, upstream, policies))
        until(lambda: client.send(running.port, target="/r/x", headers=headers).status == 200, "serving")
        running.healthy_for_envoy()
        yield running
