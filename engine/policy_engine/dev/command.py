"""What `policy-engine dev` does: starts the upstream and the engine, writes what Envoy needs, and keeps it so."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from policy_engine.dev.echo import Echo
from policy_engine.dev.envoy import EnvoyFiles, EnvoyProcess, find_envoy
from policy_engine.envoy.bootstrap import Sample, bootstrap
from policy_engine.envoy.demands import LONGEST_MESSAGE_TIMEOUT, demands_of
from policy_engine.envoy.filter_config import duration
from policy_engine.processes.supervisor import Supervisor
from policy_engine.settings.loading import Settings
from policy_engine.settings.model import LogFormat
from policy_engine.worker.chains.spec import ChainsSpec
from policy_engine.worker.policies.construction import off_loop

logger = logging.getLogger("policy_engine.dev")

_PATIENCE = LONGEST_MESSAGE_TIMEOUT
"""Seconds for which everything waits: somebody may be thinking at a breakpoint."""
_CONSTRUCTION = 600.0


@dataclass(frozen=True, slots=True)
class DevOptions:
    """Addresses are `host:port`; without an `upstream`, one that answers with what it was sent is started."""

    ingress: str
    envoy_admin: str
    upstream: str | None = None
    envoy: Path | None = None


def dev_settings(settings: Settings, directory: Path) -> Settings:
    """Return the settings for one worker process, on a socket in `directory`, with time for breakpoints."""
    return replace(
        settings,
        listen=(f"unix:{directory}/engine.sock",),
        workers=1,
        worker_timeout=_PATIENCE,
        policy_timeout=_PATIENCE,
        construction_timeout=_CONSTRUCTION,
        log=replace(settings.log, format=LogFormat.TEXT),
    )


async def run_dev(settings: Settings, options: DevOptions) -> int:
    """Run until SIGINT or SIGTERM, or until Envoy ends; returns the exit status.

    Raises ValueError (NoEnvoy among them), OSError and WorkerFailed for what keeps it from starting.
    """
    binary = find_envoy(options.envoy)
    echo = Echo()
    with tempfile.TemporaryDirectory(prefix="policy-engine-dev-") as name:
        directory = Path(name)
        try:
            if options.upstream is None:
                await echo.start()
            session = _Session(dev_settings(settings, directory), options, options.upstream or echo.address)
            return await session.run(binary, EnvoyFiles(directory))
        finally:
            await echo.close()


class _Session:
    def __init__(self, settings: Settings, options: DevOptions, upstream: str) -> None:
        self._settings = settings
        self._options = options
        self._sample = Sample(ingress=options.ingress, upstream=upstream, admin=options.envoy_admin)
        self._changed = asyncio.Event()
        self._supervisor = Supervisor(settings, reload=True, development=True, activated=self._changed.set)

    async def run(self, binary: Path, files: EnvoyFiles) -> int:
        engine = asyncio.ensure_future(self._supervisor.run())
        proxy = asyncio.ensure_future(self._keep_envoy(binary, files))
        try:
            await asyncio.wait((engine, proxy), return_when=asyncio.FIRST_COMPLETED)
            if proxy.done():
                return proxy.result()
            return engine.result()
        finally:
            for task in (proxy, engine):
                task.cancel()
            await asyncio.gather(proxy, engine, return_exceptions=True)

    async def _keep_envoy(self, binary: Path, files: EnvoyFiles) -> int:
        """Have Envoy run with what the active chains need; returns when it has ended by itself."""
        await self._changed.wait()
        await self._write(files)
        envoy = await EnvoyProcess.start(binary, files.bootstrap)
        ended = asyncio.ensure_future(envoy.ended())
        self._greet()
        try:
            while True:
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait((ended, changed), return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    changed.cancel()
                    logger.error("Envoy ended with status %d; what it wrote is above", ended.result())
                    return 1
                await self._write(files)
        finally:
            ended.cancel()
            await envoy.stop()

    async def _write(self, files: EnvoyFiles) -> None:
        self._changed.clear()
        chains, registry = self._supervisor.chains, self._supervisor.registry
        if chains is not None:
            demands = await off_loop(demands_of, self._settings, chains, registry)
            files.write(_patient(bootstrap(demands, self._sample)))

    def _greet(self) -> None:
        print(f"\nEnvoy listens on http://{self._options.ingress}, with the engine before {self._sample.upstream}:")
        for line in _routes(self._supervisor.chains, self._options.ingress):
            print(f"  {line}")
        print("Files of policies and chains are watched. Ctrl-C ends it all.\n", flush=True)


def _routes(chains: ChainsSpec | None, ingress: str) -> Iterable[str]:
    for route in chains.routes if chains is not None else ():
        policies = ", ".join(f"{one.name} {one.version}" for one in route.policies if one.enabled) or "no policies"
        yield f"http://{ingress}/{quote(route.route_key, safe='')}  {policies}"


def _patient(config: dict[str, Any]) -> dict[str, Any]:
    """Have Envoy wait as long as a breakpoint takes, and ask for no signs of life meanwhile."""
    (listener,) = config["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager.pop("access_log", None)  # the engine's own lines say more
    manager |= {"stream_idle_timeout": "0s", "request_timeout": "0s"}
    manager["http_filters"][0]["typed_config"]["message_timeout"] = duration(_PATIENCE)
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        if "route" in route:
            route["route"]["timeout"] = "0s"
    for cluster in config["static_resources"]["clusters"]:
        cluster.pop("health_checks", None)
    return config
