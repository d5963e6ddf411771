"""What the runtime tests share: one Envoy, one engine and an HTTP/2 upstream, and a chain for every case.

Apart from `end_to_end` because these policies are made for tests: they do what no policy of the product should.
"""

from __future__ import annotations

import contextlib
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from integration.harness import client
from integration.harness.chain_file import ChainFile, Document, chain, chains, policy
from integration.harness.client import Reply
from integration.harness.engine import EngineProcess
from integration.harness.envoy import Envoy, EnvoyProcess
from integration.harness.envoy_config import Bootstrap, Route, access_log
from integration.harness.exchange import HeaderList
from integration.harness.upstream import Upstream
from policy_engine.cli import main

TEST_POLICIES = Path(__file__).parent / "test_policies"
ENGINE_BODY_LIMIT = 256 * 1024
ENVOY_BUFFER_LIMIT = 1024 * 1024
METADATA_NAMESPACE = "policy.test"
EVENTUALLY_S = 20.0
"""How long something may take on a machine under load; far above what is normal."""

LOGGED = {
    "target": "%REQ(:PATH)%",
    "route": "%ROUTE_NAME%",
    "metadata": f"%DYNAMIC_METADATA({METADATA_NAMESPACE})%",
}
"""Fields of Envoy's access log."""

_FLUSHED_SOON = ("--file-flush-interval-msec", "50")

Chains = Mapping[str, Sequence[Document]]
Phases = dict[str, int]


def scripted(failure_mode: str = "closed", **phases: Any) -> Document:
    """Return a chain entry of the policy `scripted`; `phases` are its scripts."""
    return policy("scripted", "v1.0.0", phases, timeout="20s", failure_mode=failure_mode)


def document(of: Chains) -> Document:
    """Return the chain file with these chains by route key."""
    return chains(*(chain(name, *policies) for name, policies in of.items()))


def routes(
    of: Chains, overrides: Mapping[str, Any] | None = None, metadata_key: tuple[str, str] | None = None
) -> list[Route]:
    """Return a route `/<name>/` for each chain; `overrides` are `ExtProcPerRoute.overrides` by name."""
    found = [Route(prefix=f"/{name}/", name=name, overrides=(overrides or {}).get(name, {})) for name in of]
    if metadata_key is None:
        return found
    namespace, key = metadata_key
    return [replace(route, name="", metadata={namespace: {key: route.name}}) for route in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The running parts."""

    envoy: Envoy
    proxy: EnvoyProcess
    engine: EngineProcess
    upstream: Upstream
    chains: ChainFile
    access_log: Path

    def send(
        self,
        target: str,
        *,
        method: str = "GET",
        headers: HeaderList = (),
        body: bytes | Iterable[bytes] = b"",
        trailers: HeaderList = (),
    ) -> Reply:
        """Send a request through Envoy."""
        return client.send(self.envoy.port, method, target, headers=headers, body=body, trailers=trailers)

    def phases(self) -> Phases:
        """Return how many messages of each phase Envoy has sent so far, as the engine counted them."""
        samples = self.engine.admin.samples("policy_engine_phases_total")
        return {dict(labels)["phase"]: int(value) for labels, value in samples.items()}

    def phases_of(self, act: Callable[[], object]) -> Phases:
        """Return how many messages of each phase `act` made Envoy send."""
        before = self.phases()
        act()
        after = self.phases()
        return {phase: count - before.get(phase, 0) for phase, count in after.items() if count != before.get(phase, 0)}

    def value(self, name: str, **labels: str) -> int:
        """Return the sum of the samples of `name` that have these labels."""
        samples = self.engine.admin.samples(name)
        return int(sum(value for own, value in samples.items() if labels.items() <= dict(own).items()))

    def sums(self, *names: str) -> tuple[int, ...]:
        """Return the sums of the samples of these names at one moment."""
        page = self.engine.admin.metrics()
        return tuple(int(sum(self.engine.admin.samples(name, page).values())) for name in names)

    def settled(self) -> bool:
        """Return whether no stream is in flight; raises AssertionError for an error of the engine or a dead worker."""
        active, errors, restarts = self.sums(
            "policy_engine_streams_active", "policy_engine_handler_errors_total", "policy_engine_worker_restarts_total"
        )
        assert (errors, restarts) == (0, 0), self.engine.log()
        return active == 0

    def active(self) -> int:
        """Return how many streams are in flight."""
        return self.value("policy_engine_streams_active")

    def log_lines(self, target: str, count: int) -> list[dict[str, Any]]:
        """Return Envoy's access log of this target once it has `count` lines, oldest first."""

        def lines() -> list[dict[str, Any]]:
            text = self.access_log.read_text() if self.access_log.exists() else ""
            complete = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
            return [line for line in complete if line["target"] == target]

        eventually(lambda: len(lines()) >= count, f"{count} access log lines for {target}")
        return lines()

    def swap(self, of: Chains) -> None:
        """Write another chain file and return once it is active."""
        accepted = self.value("policy_engine_configuration_swaps_total")
        self.chains.write(document(of))
        eventually(lambda: self.value("policy_engine_configuration_swaps_total") > accepted, "active")


def eventually(holds: Callable[[], bool], what: str, timeout_s: float = EVENTUALLY_S) -> None:
    """Return once `holds()`; raises AssertionError when it never does."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not {what} after {timeout_s:g} s"
        time.sleep(0.02)


@contextlib.contextmanager
def started(
    of: Chains,
    *,
    transport: str,
    overrides: Mapping[str, Any] | None = None,
    tcp: bool = False,
    settings: Mapping[str, str] | None = None,
    metadata_key: tuple[str, str] | None = None,
    policies: Path = TEST_POLICIES,
    flags: Sequence[str] = (),
    **ext_proc: Any,
) -> Iterator[Runtime]:
    """Start everything for these chains; `settings` are the engine's, `ext_proc` further ones of Envoy's filter,
    `policies` is the directory they come from, `flags` are further ones of `policy-engine run`.

    `metadata_key`: the route key is in this namespace and key of the routes' filter metadata, and routes have no name.
    """
    # Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp") as name, Upstream() as upstream:
        directory = Path(name)
        file = ChainFile(directory / "chains.yaml")
        file.write(document(of))
        chosen = {"TRANSPORT": transport, "BODY_LIMIT": str(ENGINE_BODY_LIMIT), **(settings or {})}
        env = {f"POLICY_ENGINE_{name}": value for name, value in chosen.items()}
        with EngineProcess(directory, chains=file.path, policies=policies, env=env, tcp=tcp, flags=flags) as engine:
            engine.ready()
            bootstrap = Bootstrap(
                routes=routes(of, overrides, metadata_key),
                engine=engine.address,
                upstream_port=upstream.port,
                upstream_http2=True,
                buffer_limit_bytes=ENVOY_BUFFER_LIMIT,
                ext_proc={
                    "metadata_options": {"receiving_namespaces": {"untyped": [METADATA_NAMESPACE]}},
                    **ext_proc,
                },
                access_log=directory / "access.log",
                access_log_fields=LOGGED,
            )
            with EnvoyProcess(bootstrap, directory, *_FLUSHED_SOON) as proxy:
                yield Runtime(
                    envoy=proxy.ready(),
                    proxy=proxy,
                    engine=engine,
                    upstream=upstream,
                    chains=file,
                    access_log=directory / "access.log",
                )


@contextlib.contextmanager
def generated(
    of: Chains,
    *,
    transport: str = "native",
    settings: Mapping[str, str] | None = None,
    policies: Path = TEST_POLICIES,
    flags: Sequence[str] = (),
    change: Callable[[Any], None] = lambda config: None,
) -> Iterator[Runtime]:
    """Start everything behind the configuration that `policy-engine envoy-config` writes for these chains.

    `settings` are the engine's (`BODY_LIMIT`), for both commands; `flags` are further ones of `envoy-config`; `change`
    does to the configuration what an operator would.
    """
    with tempfile.TemporaryDirectory(prefix="rg-", dir="/tmp") as name, Upstream() as upstream:
        directory = Path(name)
        file = ChainFile(directory / "chains.yaml")
        file.write(document(of))
        chosen = {"TRANSPORT": transport, **(settings or {})}
        env = {f"POLICY_ENGINE_{name}": value for name, value in chosen.items()}
        with EngineProcess(directory, chains=file.path, policies=policies, env=env) as engine:
            config = directory / "envoy.yaml"
            setting_flags = [f"--{name.lower().replace('_', '-')}={value}" for name, value in chosen.items()]
            written_for = ("--chains", str(file.path), "--policies-directory", str(policies), *setting_flags)
            where = ("--engine", f"unix:{engine.address}", "--upstream", f"127.0.0.1:{upstream.port}")
            free = ("--ingress", "127.0.0.1:0", "--envoy-admin", "127.0.0.1:0", "--output", str(config))
            assert main(["envoy-config", "--bootstrap", *where, *free, *written_for, *flags]) == 0
            assert main(["envoy-config", "--lint", str(config), *written_for]) == 0
            _edit(config, directory / "access.log", change)
            engine.ready()
            with EnvoyProcess(config, directory, *_FLUSHED_SOON) as proxy:
                yield Runtime(
                    envoy=proxy.ready(),
                    proxy=proxy,
                    engine=engine,
                    upstream=upstream,
                    chains=file,
                    access_log=directory / "access.log",
                )


def _edit(path: Path, log: Path, change: Callable[[Any], None]) -> None:
    config = yaml.safe_load(path.read_text())
    connection_manager(config)["access_log"].append(access_log(log, LOGGED))
    change(config)
    path.write_text(json.dumps(config))  # which is YAML, without names that Envoy reads as booleans


def connection_manager(config: Any) -> Any:
    """Return the one HTTP connection manager of a generated configuration."""
    (network_filter,) = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    return network_filter["typed_config"]


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and of its children."""
    total = 0
    for task in (pid, *_children(pid)):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += int(Path(f"/proc/{task}/statm").read_text().split()[1]) * resource.getpagesize()
    return total


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
