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
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from policy_engine import __version__
from policy_engine.processes.channel import Message
from policy_engine.processes.code_on_disk import CodeOnDisk
from policy_engine.processes.code_reload import CodeReload
from policy_engine.processes.fork_server import worker_process
from policy_engine.processes.forked import ForkServer
from policy_engine.processes.handover import HandedOver, HandOver, HandOverFailed, TakeOver
from policy_engine.processes.listening import Given, Listening
from policy_engine.processes.pool import WorkerPool
from policy_engine.processes.preloading import import_for
from policy_engine.processes.service_manager import ServiceManager
from policy_engine.processes.start_checks import check_decision_log, check_reload
from policy_engine.processes.stray_signals import ignore_stray_signals
from policy_engine.processes.tls_files import certificate_files, check_tls
from policy_engine.processes.trace_hub import TraceHub
from policy_engine.processes.worker_options import worker_count, worker_options
from policy_engine.settings.loading import Settings, render_settings
from policy_engine.settings.model import ConfigurationSource, Verify
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
from policy_engine.worker.chains.spec import ChainsSpec
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
    chains, or other code for them, have become active. With `take_over`, the engine begins in place of another.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry | None = None,
        *,
        reload: bool = False,
        development: bool = False,
        activated: Callable[[], object] = lambda: None,
        take_over: TakeOver | None = None,
    ) -> None:
        self._settings = settings
        if reload:
            check_reload(settings)
        self._policies = settings.policies.registry or settings.policies.directory
        self._verification = verify(self._policies) if registry is None else Verification()
        if settings.policies.verify is Verify.STRICT:
            refuse_unlike(self._verification)
        self._registry = (
            registry if registry is not None else load_policies(self._policies, on_demand=self._verification)
        )
        self._count = worker_count(settings.workers)
        options = replace(worker_options(settings, self._policies), development=development)
        self._own_manager = ServiceManager.of(os.environ)
        # Until it has taken over, another process is the service.
        self._manager = self._own_manager if take_over is None else ServiceManager()
        self._take_over = take_over
        self._given = take_over.given if take_over is not None else Given()
        self._pool = WorkerPool(
            self._count, options, self._pool_changed, self._worker_told, replaceable=reload, given=self._given
        )
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
        self._hand_over: HandOver | None = None
        self._handed_over: HandedOver | None = None
        self._pages_later: list[tuple[AdminServer, socket.socket]] = []
        self._xds: XdsStatus | None = None

    @property
    def chains(self) -> ChainsSpec | None:
        """The active chains, None before the first."""
        return self._history.active

    @property
    def registry(self) -> Registry:
        """The policies that run."""
        return self._registry

    def fork_from_here(self, closing: Sequence[int] = ()) -> None:
        """Have worker processes share what this process has imported by now.

        To be called while it has one thread and no event loop; without it, they import for themselves. What the chain
        files name is imported before. It keeps neither the descriptors `closing` open nor what another engine gave.
        """
        if self._settings.configuration is ConfigurationSource.FILE:
            import_for(self._registry, self._settings.chains)
        self._pool.fork_servers.use(ForkServer.forked(worker_process(self._registry), closing))

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
        check_tls(self._settings)
        check_decision_log(self._settings)
        self._ready = loop.create_future()
        await self._open_pages()
        if self._take_over is None:
            self._wait_for_successor(stop)
        waiting = loop.call_later(START_SECONDS, self._started)
        source = asyncio.ensure_future(self._start_and_follow())
        stopping = asyncio.ensure_future(stop.wait())
        arriving = asyncio.ensure_future(self._arrive(stop))
        try:
            while not (source.done() or stopping.done()):
                pending = {one for one in (source, stopping, arriving) if not one.done()}
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if arriving.done():
                    arriving.result()
            if source.done():
                source.result()
        finally:
            for task in (waiting, stopping, source, arriving):
                task.cancel()
            await self._close()
        return 0

    async def _arrive(self, stop: asyncio.Event) -> None:
        """Wait until this engine is ready, and take the place of the one that runs, if it is to."""
        take_over = self._take_over
        if take_over is None:
            await asyncio.shield(self._ready)
        else:
            await take_over.finish(self._ready, lambda: str(self._readiness()))
            self._take_over = None
            self._manager = self._own_manager if self._own_manager.address else take_over.manager
            for server, sock in self._pages_later:
                await self._open(server, sock)
            self._wait_for_successor(stop)
            self._given.close()
            logger.info("took over from process %d", take_over.pid, extra={"event": "took_over"})
            take_over.done()
        self._manager.tell("READY=1", f"STATUS={self._readiness()}")

    def _wait_for_successor(self, stop: asyncio.Event) -> None:
        """Be there for another engine that is to take over."""
        path = self._settings.upgrade.socket
        if path is None:
            return

        def handed_over(to: HandedOver) -> None:
            self._handed_over = to
            stop.set()

        def not_now() -> str:
            # Its worker processes do not listen yet, and would find their addresses in use.
            return "" if self._history.events else "the engine that runs is still starting"

        self._hand_over = HandOver(path, self._sockets, handed_over, self._manager, not_now)
        try:
            self._hand_over.start(self._given)
        except OSError as error:
            raise OSError(f"upgrade.socket: {error.strerror or error}") from error

    async def _sockets(self, until: ExitStack) -> list[Listening]:
        pages = [Listening(one.wanted, one.sock) for one in self._servers if one.sock is not None]
        return [*pages, *await self._pool.sockets(until)]

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
        reloads: set[asyncio.Task[None]] = set()

        async def load() -> None:
            with self._manager.reloading():
                await source.load(force=True)

        def reload() -> None:
            self._code.tell()
            task = asyncio.ensure_future(load())
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
            with self._manager.reloading():
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
            if self._history.active is None and self._take_over is not None and not self._ready.done():
                self._ready.set_exception(HandOverFailed("its configuration is not valid:\n" + "\n".join(problems)))
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
        if now.ready and not self._ready.done():
            self._ready.set_result(None)
        # That an engine is not ready before its first configuration is nothing to be told, unless it takes long.
        if now == self._told or (self._starting and not now.ready):
            return
        self._told = now
        self._manager.tell(f"STATUS={now}")
        logger.info("%s", now, extra={"event": "readiness"})

    async def _samples(self) -> Samples:
        samples = await self._pool.samples()
        history = self._history
        pids = {f"worker-{one['number']}": one["pid"] for one in self._pool.as_documents() if one.get("pid")}
        samples |= process_samples({"supervisor": os.getpid(), "fork-server": self._pool.fork_servers.pid} | pids)
        samples |= certificate_samples(certificate_files(self._settings))
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
            denials=self._pool.denials,
        )
        settings = self._settings
        for name, address in (("admin.listen", settings.admin.listen), ("health.listen", settings.health.listen)):
            if address is None:
                continue
            server = AdminServer(address, sources, probes_only=name == "health.listen", hosts=settings.admin.hosts)
            try:
                taken = self._given.take(address)
                if taken is None:
                    await self._open(server)
                else:
                    self._pages_later.append((server, taken))
            except OSError as error:
                raise OSError(f"{name}: {error.strerror or error}") from error

    async def _open(self, server: AdminServer, sock: socket.socket | None = None) -> None:
        await server.start(sock)
        self._servers.append(server)
        pages = "health and metrics" if server.probes_only else "admin pages"
        logger.info("%s on http://%s", pages, server.address)

    async def _close(self) -> None:
        kept = self._served_by_another()
        if kept is None:
            self._manager.tell("STOPPING=1")
        if self._hand_over is not None:
            await self._hand_over.stop("it is being stopped")
        logger.info("draining for up to %g s", self._settings.drain_timeout)
        self._draining = True
        self._started()
        # Where another engine answers, this one does no longer.
        pages = [] if kept is None else [asyncio.ensure_future(one.close()) for one in self._servers]
        await self._pool.drain(self._settings.drain_timeout, kept)
        for page in pages:
            await page
        for server in self._servers:
            await server.close()

    def _served_by_another(self) -> frozenset[str] | None:
        """Return the addresses that another engine serves, which has taken over or goes on; None without another."""
        if self._handed_over is not None:
            return self._handed_over.addresses
        return frozenset(self._given.taken.values()) if self._take_over is not None else None


def configuration_version(chains: ChainsSpec) -> str:
    """Return the version shown to people: a hash over the chains, the same for the same content."""
    content = "\n".join(sorted(f"{route.route_key}\0{route.content_hash()}" for route in chains.routes))
    return hashlib.sha256(content.encode()).hexdigest()[:12]
