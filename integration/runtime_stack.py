"""What the runtime tests share: one Envoy, one engine and an HTTP/2 upstream, and a chain for every case.

Apart from `end_to_end` because these policies are made for tests: they do what no policy of the product should.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integration.harness import client
from integration.harness.chain_file import ChainFile, Document, chain, chains, policy
from integration.harness.client import Reply
from integration.harness.engine import EngineProcess
from integration.harness.envoy import Envoy, EnvoyProcess
from integration.harness.envoy_config import Bootstrap, Route
from integration.harness.exchange import HeaderList
from integration.harness.upstream import Upstream

TEST_POLICIES = Path(__file__).parent / "test_policies"
ENGINE_BODY_LIMIT = 256 * 1024
ENVOY_BUFFER_LIMIT = 1024 * 1024
METADATA_NAMESPACE = "policy.test"
EVENTUALLY_S = 20.0
"""How long something may take on a machine under load; far above what is normal."""

Chains = Mapping[str, Sequence[Document]]
Phases = dict[str, int]


def scripted(failure_mode: str = "closed", **phases: Any) -> Document:
    """Return a chain entry of the policy `scripted`; `phases` are its scripts."""
    return policy("scripted", "v1.0.0", phases, timeout="20s", failure_mode=failure_mode)


def document(of: Chains) -> Document:
    """Return the chain file with these chains by route key."""
    return chains(*(chain(name, *policies) for name, policies in of.items()))


def routes(of: Chains, overrides: Mapping[str, Any] | None = None) -> list[Route]:
    """Return a route `/<name>/` for each chain; `overrides` are `ExtProcPerRoute.overrides` by name."""
    return [Route(prefix=f"/{name}/", name=name, overrides=(overrides or {}).get(name, {})) for name in of]


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


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Return once `holds()`; raises AssertionError when it never does."""
    deadline = time.monotonic() + EVENTUALLY_S
    while not holds():
        assert time.monotonic() < deadline, f"not {what} after {EVENTUALLY_S:g} s"
        time.sleep(0.02)


@contextlib.contextmanager
def started(
    of: Chains,
    *,
    transport: str,
    overrides: Mapping[str, Any] | None = None,
    policies: Path = TEST_POLICIES,
    **ext_proc: Any,
) -> Iterator[Runtime]:
    """Start everything for these chains and this directory of policies; `ext_proc` are more settings of the filter."""
    # Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp") as name, Upstream() as upstream:
        directory = Path(name)
        file = ChainFile(directory / "chains.yaml")
        file.write(document(of))
        env = {"POLICY_ENGINE_TRANSPORT": transport, "POLICY_ENGINE_BODY_LIMIT": str(ENGINE_BODY_LIMIT)}
        with EngineProcess(directory, chains=file.path, policies=policies, env=env) as engine:
            engine.ready()
            bootstrap = Bootstrap(
                routes=routes(of, overrides),
                engine=engine.address,
                upstream_port=upstream.port,
                upstream_http2=True,
                buffer_limit_bytes=ENVOY_BUFFER_LIMIT,
                ext_proc={
                    "metadata_options": {"receiving_namespaces": {"untyped": [METADATA_NAMESPACE]}},
                    **ext_proc,
                },
                access_log=directory / "access.log",
                access_log_fields={
                    "target": "%REQ(:PATH)%",
                    "route": "%ROUTE_NAME%",
                    "metadata": f"%DYNAMIC_METADATA({METADATA_NAMESPACE})%",
                },
            )
            with EnvoyProcess(bootstrap, directory, "--file-flush-interval-msec", "50") as proxy:
                yield Runtime(
                    envoy=proxy.ready(),
                    proxy=proxy,
                    engine=engine,
                    upstream=upstream,
                    chains=file,
                    access_log=directory / "access.log",
                )
