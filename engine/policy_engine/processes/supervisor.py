"""The process that `policy-engine run` starts: decides the configuration once, looks after the worker processes.

It serves no ext_proc itself, so nothing a request does can take it down (R-50, R-54, R-55).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import platform
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_engine import __version__
from policy_engine.explain.live import Filter
from policy_engine.limits import LARGEST_HEADERS, MESSAGE_OVERHEAD, RECEIVE_BUFFER
from policy_engine.processes.channel import Message
from policy_engine.processes.code_on_disk import CodeOnDisk
from policy_engine.processes.code_reload import CodeReload
from policy_engine.processes.fork_server import worker_process
from policy_engine.processes.forked import ForkServer
from policy_engine.processes.pool import WorkerPool
from policy_engine.processes.preloading import import_for
from policy_engine.processes.serving import WorkerOptions
from policy_engine.processes.stray_signals import ignore_stray_signals
from policy_engine.processes.trace_hub import TraceHub
from policy_engine.settings.forms import AUTO, LOG, OTLP, WORKER_PLACE
from policy_engine.settings.loading import Settings, render_settings
from policy_engine.settings.model import ConfigurationSource, Decisions, UnmappedRoutes, Verify
from policy_engine.settings.route_key import route_key_parts
from policy_engine.settings.usable_cores import usable_cores
from policy_engine.sources.chain_reader import ChainReader
from policy_engine.sources.file_source import FileSource
from policy_engine.sources.source import LoadReport
from policy_engine.sources.validate import chain_reader, unusable_policies
from policy_engine.telemetry.admin import AdminServer, AdminSources
from policy_engine.telemetry.build_info import build_info
from policy_engine.telemetry.certificates import certificate_samples
from policy_engine.telemetry.history import ConfigurationHistory
from policy_engine.telemetry.logs import set_level
from policy_engine.telemetry.metrics import families_of, xds_samples
from policy_engine.telemetry.processes import process_samples
from policy_engine.telemetry.readiness import Check, dependency_check, verification_check
from policy_engine.telemetry.samples import Samples
from policy_engine.transport.native.tls import server_context
from policy_engine.transport.options import TlsOptions
from policy_engine.worker.chains.spec import ChainsSpec
from policy_engine.worker.conditions.condition import ConditionRefused
from policy_engine.worker.policies.integrity import Verification, verify
from policy_engine.worker.policies.loader import load_policies, refuse_unlike
from policy_engine.worker.policies.registry import Registry

if TYPE_CHECKING:  # see _follow_management_server
    from policy_engine.sources.xds.source import XdsStatus

START_SECONDS = 5.0
"""An engine that is not ready after so long says so."""

logger = logging.getLogger("policy_engine.supervisor")


@dataclass(frozen=True, slots=True)
class _Readiness:
    """Whether requests are welcome, and why not; `trouble` may change from one moment to the next."""

    ready: bool
    reason: str
    trouble: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.reason}: {self.trouble}" if self.trouble else self.reason


class Supervisor:
    """Everything of one running engine; `run` returns the exit code.

    With `reload`, which is for development, policies are loaded anew when their files change; raises ValueError for
    settings under which that cannot be. `development` is as in `WorkerOptions`; `activated` is called whenever other
    chains, or other code for them, have become active.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry | None = None,
        *,
        reload: bool = False,
        development: bool = False,
        activated: Callable[[], object] = lambda: None,
    ) -> None:
        self._settings = settings
        if reload:
            _check_reload(settings)
        self._policies = settings.policies.registry or settings.policies.directory
        self._verification = verify(self._policies) if registry is None else Verification()
        if settings.policies.verify is Verify.STRICT:
            refuse_unlike(self._verification)
        self._registry = (
            registry if registry is not None else load_policies(self._policies, on_demand=self._verification)
        )
        self._count = worker_count(settings.workers)
        options = replace(worker_options(settings, self._policies), development=development)
        self._pool = WorkerPool(self._count, options, self._pool_changed, self._worker_told, replaceable=reload)
        self._traces = TraceHub(self._pool.tell, self._pool.withdraw)
        self._activated = activated
        self._reloads = reload
        self._development = development
        self._reload: CodeReload | None = None
        self._history = ConfigurationHistory()
        self._told: _Readiness | None = None
        self._starting = True
        self._restarts = 0
        self._code = CodeOnDisk(self._registry, self._policies)
        self._draining = False
        self._servers: list[AdminServer] = []
        self._xds: XdsStatus | None = None

    @property
    def chains(self) -> ChainsSpec | None:
        """The active chains, None before the first."""
        return self._history.active

    @property
    def registry(self) -> Registry:
        """The policies that run."""
        return self._registry

    def fork_from_here(self) -> None:
        """Have worker processes share what this process has imported by now.

        To be called while it has one thread and no event loop; without it, they import for themselves. What the chain
        files name is imported before.
        """
        if self._settings.configuration is ConfigurationSource.FILE:
            import_for(self._registry, self._settings.chains)
        self._pool.fork_servers.use(ForkServer.forked(worker_process(self._registry)))

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then drain; raises WorkerFailed or OSError when it cannot start."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        ignore_stray_signals()
        # In development the end of the terminal is the end of it all.
        for number in (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if self._development else ())):
            loop.add_signal_handler(number, stop.set)
        for warning in unusable_policies(self._registry):
            logger.warning("%s", warning)
        for finding in self._verification.findings:
            logger.warning("%s", finding, extra={"event": "not_reviewed"})
        logger.info("policy-engine %s with %d policies, %d worker(s)", __version__, len(self._registry), self._count)
        _check_certificates(self._settings)
        _check_decision_log(self._settings)
        await self._open_pages()
        waiting = loop.call_later(START_SECONDS, self._started)
        source = asyncio.ensure_future(self._start_and_follow())
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((source, stopping), return_when=asyncio.FIRST_COMPLETED)
            if source.done():
                source.result()
        finally:
            waiting.cancel()
            stopping.cancel()
            source.cancel()
            await self._close()
        return 0

    async def _start_and_follow(self) -> None:
        await self._pool.start()
        await self._follow_configuration()

    async def _follow_configuration(self) -> None:
        reader = chain_reader(self._registry, self._settings)
        if self._settings.configuration is ConfigurationSource.XDS:
            await self._follow_management_server(reader)
        settings = self._settings
        source = FileSource(
            settings.chains,
            reader,
            self._apply,
            self._note_load,
            settings.chain_files.settle,
            settings.chain_files.end_marker,
        )
        loop = asyncio.get_running_loop()
        reloads: set[asyncio.Task[LoadReport | None]] = set()

        def reload() -> None:
            self._code.tell()
            task = asyncio.ensure_future(source.load(force=True))
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        if not self._development:
            loop.add_signal_handler(signal.SIGHUP, reload)
        directory = settings.policies.directory
        if not self._reloads or directory is None:
            await source.run()
            return
        self._reload = CodeReload(directory, self._registry, lambda new: self._use_code(new, source))
        await asyncio.gather(source.run(), self._reload.run())

    async def _use_code(self, registry: Registry, source: FileSource) -> str:
        """Have new worker processes run the code of `registry`; returns what is wrong with that, if anything."""
        report = await source.change_reader(chain_reader(registry, self._settings), self._pool.replace)
        if not report.accepted:
            return "\n".join(map(str, report.diagnostics))
        self._registry = registry
        self._code = CodeOnDisk(registry, self._policies)
        return ""

    async def _follow_management_server(self, reader: ChainReader) -> None:
        from policy_engine.sources.xds.following import xds_source  # noqa: PLC0415 - file mode starts without gRPC

        source = xds_source(self._settings.xds, reader, self._apply, self._note_load)
        self._xds = source.status

        def nothing_to_load() -> None:
            logger.info("SIGHUP: nothing to reload, the management server sends changes itself")
            self._code.tell()

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, nothing_to_load)
        await source.run()

    async def _apply(self, chains: ChainsSpec) -> None:
        await self._pool.apply(chains)

    def _note_load(self, report: LoadReport) -> None:
        by_xds = self._settings.configuration is ConfigurationSource.XDS
        source = f"xds {self._settings.xds.server}" if by_xds else str(self._settings.chains)
        if report.accepted and report.chains is not None:
            version = configuration_version(report.chains)
            self._history.accept(report.chains, version, source)
            # Later, when what comes with them is in place too.
            asyncio.get_running_loop().call_soon(self._activated)
            logger.info(
                "configuration %s is active in %d worker(s): %d routes from %s",
                version,
                self._pool.serving,
                len(report.chains.routes),
                source,
                extra={"event": "configuration_active", "configuration": version, "source": source},
            )
        else:
            problems = [str(one) for one in report.diagnostics]
            self._history.reject(source, problems)
            logger.error(
                "configuration from %s refused, %s stays active:\n%s",
                source,
                self._history.version or "nothing",
                "\n".join(problems),
                extra={"event": "configuration_rejected", "source": source, "problems": problems},
            )
        self._started()
        if self._reload is not None and self._reload.pending:
            # Perhaps it was the chains that did not fit to the new code.
            self._retry = asyncio.ensure_future(self._reload.load())

    def _worker_told(self, message: Message) -> None:
        self._traces.heard(message)

    async def _set_log_level(self, level: str) -> None:
        set_level(level)
        await self._pool.tell("log_level", {"log_level": level})
        logger.warning("log level is %s now, in every process", level, extra={"event": "log_level"})

    def _started(self) -> None:
        self._starting = False
        self._tell_readiness()

    def _pool_changed(self) -> None:
        if self._restarts != self._pool.restarts:
            self._restarts = self._pool.restarts
            # A process that is started again may have to load policies from what is on disk by then.
            self._code.tell()
        self._tell_readiness()

    def _readiness(self) -> _Readiness:
        if self._draining:
            return _Readiness(False, "not ready: draining")
        if self._history.active is None:
            return _Readiness(False, "not ready: no valid configuration yet", self._pool.trouble)
        if not self._pool.complete:
            serving = f"not ready: {self._pool.serving} of {self._count} worker processes serve"
            return _Readiness(False, serving, self._pool.trouble)
        return _Readiness(True, "ready")

    def _tell_readiness(self) -> None:
        now = self._readiness()
        # That an engine is not ready before its first configuration is nothing to be told, unless it takes long.
        if now == self._told or (self._starting and not now.ready):
            return
        self._told = now
        logger.info("%s", now, extra={"event": "readiness"})

    async def _samples(self) -> Samples:
        samples = await self._pool.samples()
        history = self._history
        pids = {f"worker-{one['number']}": one["pid"] for one in self._pool.as_documents() if one.get("pid")}
        samples |= process_samples({"supervisor": os.getpid(), "fork-server": self._pool.fork_servers.pid} | pids)
        samples |= certificate_samples(_certificate_files(self._settings))
        build = {"version": __version__, "python": platform.python_version()}
        samples["policy_engine_build_info"] = [(build, 1)]
        samples["policy_engine_workers"] = [({}, self._pool.serving)]
        samples["policy_engine_workers_wanted"] = [({}, self._count)]
        samples["policy_engine_worker_restarts"] = [({}, self._pool.restarts)]
        samples["policy_engine_worker_hangs"] = [({}, self._pool.hangs)]
        samples["policy_engine_not_reviewed"] = [
            ({"kind": part.kind, "name": part.name}, int(bool(part.problems))) for part in self._verification.parts
        ]
        samples["policy_engine_configuration_rejections"] = [({}, history.rejections)]
        samples["policy_engine_configuration_swaps"] = [({}, history.accepted)]
        if history.active is not None:
            samples["policy_engine_configuration_info"] = [({"version": history.version}, 1)]
            samples["policy_engine_configuration_active_since_seconds"] = [({}, history.since)]
        if self._xds is not None:
            samples |= xds_samples(self._xds)
        return samples

    def _checks(self) -> list[Check]:
        """Return what `/readyz?verbose` lists."""
        version, pool = self._history.version, self._pool
        serving = f"{pool.serving} of {self._count} serve"
        return [
            Check("configuration", bool(version), version or "none is active"),
            Check("worker processes", pool.complete, f"{serving}; {pool.trouble}" if pool.trouble else serving),
            verification_check(self._verification),
            *map(dependency_check, pool.dependencies),
        ]

    def _workers(self) -> dict[str, Any]:
        pool = self._pool
        return {
            "wanted": self._count,
            "serving": pool.serving,
            "restarts": pool.restarts,
            "hangs": pool.hangs,
            "processes": pool.as_documents(),
        }

    async def _open_pages(self) -> None:
        def ready() -> tuple[bool, str]:
            now = self._readiness()
            return now.ready, str(now)

        sources = AdminSources(
            ready=ready,
            samples=self._samples,
            history=self._history,
            build_info=lambda: build_info(self._registry, self._policies, self._verification),
            workers=self._workers,
            settings=lambda: json.loads(render_settings(self._settings, json=True)),
            traces=self._traces,
            set_log_level=self._set_log_level,
            management_server=lambda: self._xds.as_document() if self._xds is not None else None,
            metrics_of_policies=lambda: families_of(self._registry),
            checks=self._checks,
        )
        settings = self._settings
        for name, address, pages in (
            ("admin.listen", settings.admin.listen, "admin pages"),
            ("health.listen", settings.health.listen, "health and metrics"),
        ):
            if address is not None:
                probes_only = name == "health.listen"
                server = AdminServer(address, sources, probes_only=probes_only, hosts=settings.admin.hosts)
                try:
                    await server.start()
                except OSError as error:
                    raise OSError(f"{name}: {error.strerror or error}") from error
                self._servers.append(server)
                logger.info("%s on http://%s", pages, server.address)

    async def _close(self) -> None:
        logger.info("draining for up to %g s", self._settings.drain_timeout)
        self._draining = True
        self._started()
        await self._pool.drain(self._settings.drain_timeout)
        for server in self._servers:
            await server.close()


def _check_reload(settings: Settings) -> None:
    wrong = (
        (settings.policies.directory is None, "needs `policies.directory`, whose files it watches"),
        (settings.configuration is ConfigurationSource.XDS, "works with chain files, not with a management server"),
        (settings.transport.value != "native", "needs `transport: native`"),
        (
            any(WORKER_PLACE in one for one in settings.listen),
            f"needs addresses that worker processes share, without {WORKER_PLACE}",
        ),
    )
    for found, what in wrong:
        if found:
            raise ValueError(f"--reload {what}")


def _check_certificates(settings: Settings) -> None:
    """Read the files of TLS as every worker process will; raises OSError or ValueError naming the one at fault."""
    tls = settings.tls
    if tls.cert is not None and tls.key is not None:
        server_context(TlsOptions(tls.cert, tls.key, tls.client_ca))


def _certificate_files(settings: Settings) -> dict[str, Path]:
    """Return the files that hold certificates, by the settings that name them."""
    xds = settings.xds.tls
    named = {
        "tls.cert": settings.tls.cert,
        "tls.client_ca": settings.tls.client_ca,
        "xds.tls.cert": xds.cert,
        "xds.tls.ca": xds.ca,
    }
    return {name: file for name, file in named.items() if file is not None}


def _check_decision_log(settings: Settings) -> None:
    """Raise ValueError for a condition that is none, OSError for a file that cannot be written."""
    log = settings.decision_log
    if log.condition is not None:
        try:
            Filter(where=log.condition).condition()
        except ConditionRefused as refused:
            raise ValueError(f"decision_log.condition: {refused}") from None
    if log.decisions is not Decisions.OFF and log.output not in (LOG, OTLP):
        with Path(log.output).open("a"):
            pass


def worker_count(workers: int | str) -> int:
    """Return how many workers `workers` means; `auto` is one for each core this process may use."""
    return usable_cores() if workers == AUTO else int(workers)


def configuration_version(chains: ChainsSpec) -> str:
    """Return the version shown to people: a hash over the chains, the same for the same content."""
    content = "\n".join(sorted(f"{route.route_key}\0{route.content_hash()}" for route in chains.routes))
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def worker_options(settings: Settings, policies: Path | None) -> WorkerOptions:
    """Return the part of the settings that workers need, as they cross the channel."""
    longest = max(settings.body_limit, LARGEST_HEADERS) + MESSAGE_OVERHEAD
    return WorkerOptions(
        number=0,
        bind=settings.listen,
        transport=settings.transport.value,
        policies=str(policies.absolute()) if policies is not None else "",
        route_key=route_key_parts(settings.route_key),
        pass_unmapped=settings.unmapped_routes is UnmappedRoutes.PASS,
        body_limit=settings.body_limit,
        error_format=settings.errors.format.value,
        drain_seconds=settings.drain_timeout,
        construction_seconds=settings.construction_timeout,
        blocking_threads=settings.limits.blocking_threads,
        log_level=settings.log.level.value,
        log_format=settings.log.format.value,
        certificate_file=str(settings.tls.cert or ""),
        key_file=str(settings.tls.key or ""),
        client_ca_file=str(settings.tls.client_ca or ""),
        client_names=settings.tls.client_names,
        tracing_endpoint=settings.tracing.endpoint or "",
        tracing_sample_ratio=settings.tracing.sample_ratio,
        tracing_service_name=settings.tracing.service_name,
        envoy_buffer_limit=settings.envoy_buffer_limit,
        header_count=settings.limits.header_count,
        header_size=settings.limits.header_size,
        worker_timeout=settings.worker_timeout,
        strict=settings.policies.verify is Verify.STRICT,
        decisions=settings.decision_log.decisions.value,
        decision_output=settings.decision_log.output,
        decision_endpoint=settings.decision_log.endpoint or "",
        decision_sample_ratio=settings.decision_log.sample_ratio,
        decision_condition=settings.decision_log.condition or "",
        offload_processes=settings.limits.offload_processes,
        offload_waiting=settings.limits.offload_waiting,
        metrics_detail=settings.metrics.detail.value,
        metrics_top_routes=settings.metrics.top_routes,
        limits={
            "max_concurrent_streams": settings.limits.streams,
            "max_connections": settings.limits.connections,
            # What is over a limit must get its status from the session, not an error of the transport.
            "max_message_bytes": longest,
            "receive_buffer_bytes": max(RECEIVE_BUFFER, 4 * longest),
        },
    )
