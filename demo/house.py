"""Everything the demo runs: certificate authority, key server, upstream, engine and Envoy, started and stopped."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.cases import API_KEY
from demo.report import Report
from integration.harness.certificates import CertificateAuthority
from integration.harness.chain_file import ChainFile
from integration.harness.engine import EngineProcess
from integration.harness.envoy import Envoy, EnvoyProcess
from integration.harness.envoy_config import Bootstrap, Route
from integration.harness.jwks import JwksServer
from integration.harness.tokens import Issuer
from integration.harness.upstream_process import UpstreamProcess

_ROOT = Path(__file__).parent.parent
_POLICIES = _ROOT / "policies"
_CHAINS = Path(__file__).parent / "chains.yaml"
_ROUTES = [
    *(Route(prefix=f"/{name}", name=name) for name in ("public", "private", "staff", "partner", "open")),
    Route(prefix="/unmapped", name="publik"),
]
_RUNS = "policy_engine_policy_duration_seconds_count"

PolicyRuns = Counter[tuple[str, str]]
"""How often each policy (name, version) ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """The running parts."""

    issuer: Issuer
    upstream: UpstreamProcess
    engine: EngineProcess
    proxy: EnvoyProcess
    envoy: Envoy
    chains: ChainFile

    def runs(self) -> PolicyRuns:
        """Return how often each policy ran, as the engine's own metrics count it."""
        counted: PolicyRuns = Counter()
        for labels, value in self.engine.admin.samples(_RUNS).items():
            named = dict(labels)
            counted[named["policy"], named["version"]] += int(value)
        return counted

    def ran_since(self, before: PolicyRuns) -> Sequence[str]:
        """Return the policies that ran since `before`."""
        return [f"{name} {version}" for (name, version), count in (self.runs() - before).items() if count]

    def rejections(self) -> int:
        """Return how many chain files the engine refused."""
        refused: int = self.engine.admin.history()["rejected"]
        return refused

    def last_rejection(self) -> Sequence[str]:
        """Return why the engine refused the last one, a line for each problem."""
        problems: list[str] = self.engine.admin.history()["last_rejection"]["problems"]
        return problems

    def to_try(self) -> dict[str, str]:
        """Return what a person can do while everything runs."""
        url, a_day_on = self.envoy.url, int(time.time()) + 24 * 3600
        return {
            "Envoy": url,
            "Envoy's admin": f"http://127.0.0.1:{self.envoy.admin_port}/",
            "engine's admin": f"http://127.0.0.1:{self.engine.admin.port}/",
            "chain file": f"{self.chains.path} (edit it: the next request has it)",
            "logs": str(self.engine.log_path.parent),
            "public": f"curl -i {url}/public",
            "API key": f"curl -i -H 'x-api-key: {API_KEY}' {url}/partner",
            "token": f"curl -i -H 'authorization: Bearer {self.issuer.token(role='staff', exp=a_day_on)}' {url}/staff",
        }


@contextmanager
def started(directory: Path, port: int, report: Report) -> Iterator[House]:
    """Start everything with files in `directory` and Envoy on `port` (0: any free one); stop it all at the end."""
    with ExitStack() as parts:
        issuer, authority = Issuer(), CertificateAuthority.create("demo CA")
        (directory / "ca.pem").write_bytes(authority.certificate_pem)
        jwks = parts.enter_context(JwksServer(issuer, authority, directory))
        upstream = parts.enter_context(UpstreamProcess(directory))
        upstream_port = upstream.ready()
        report.step(f"upstream on http://127.0.0.1:{upstream_port}, key server on {jwks.url}")
        chains = ChainFile(directory / "chains.yaml")
        chains.write_text(_CHAINS.read_text())
        variables = {"DEMO_JWKS_URL": jwks.url, "DEMO_CA_FILE": str(directory / "ca.pem")}
        engine = parts.enter_context(EngineProcess(directory, chains=chains.path, policies=_POLICIES, env=variables))
        engine.ready()
        report.step(f"engine on unix:{engine.address}")
        bootstrap = Bootstrap(routes=_ROUTES, engine=engine.address, upstream_port=upstream_port, listener_port=port)
        proxy = parts.enter_context(EnvoyProcess(bootstrap, directory))
        envoy = proxy.ready()
        report.facts(f"Envoy {envoy.version()} on {envoy.url}", {"engine": f"unix:{engine.address}"})
        yield House(issuer=issuer, upstream=upstream, engine=engine, proxy=proxy, envoy=envoy, chains=chains)
