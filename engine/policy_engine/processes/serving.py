"""A worker process: one event loop, one kernel, one transport, steered by the supervisor over a channel (R-55).

It listens only once a configuration is active, so a worker that starts anew is never given a request it must refuse.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from policy_engine.explain.debug_lines import DebugLines
from policy_engine.explain.decision_log import DecisionLog, PassedRequests
from policy_engine.explain.development import ShownFailures, TerminalLines
from policy_engine.explain.live import Filter, LiveTrace
from policy_engine.explain.recorder import Recorder, Watcher
from policy_engine.kernel.kernel import Kernel, KernelOptions
from policy_engine.kernel.route_key import RouteKey
from policy_engine.limits import (
    CONSTRUCTION_SECONDS,
    HEADER_COUNT,
    HEADER_SIZE,
    OFFLOAD_PROCESSES,
    OFFLOAD_WAITING,
    TOP_ROUTES,
    WORKER_SECONDS,
)
from policy_engine.processes.channel import Channel, Message, spec_from_message
from policy_engine.processes.flight_record import end_unless_told_again, keep_record
from policy_engine.processes.free_memory import Leftovers
from policy_engine.processes.passing import send_descriptors
from policy_engine.processes.stray_signals import ignore_stray_signals, let_signals_in
from policy_engine.sdk.dependencies import dependency_states
from policy_engine.sdk.error_formats import ErrorFormat
from policy_engine.telemetry.decision_output import decision_logger
from policy_engine.telemetry.logs import configure_logging, set_level
from policy_engine.telemetry.loop_delay import LoopDelay
from policy_engine.telemetry.metrics import count_policies, worker_samples
from policy_engine.telemetry.route_sums import RouteSums
from policy_engine.transport import listen
from policy_engine.transport.certificate_watch import CertificateWatch
from policy_engine.transport.counters import CountersSnapshot
from policy_engine.transport.health import Health
from policy_engine.transport.native.server import NativeServer
from policy_engine.transport.options import Limits, ServerOptions, TlsOptions
from policy_engine.worker.chains.closing import close_chains
from policy_engine.worker.chains.compiled import Decisions, Snapshot
from policy_engine.worker.chains.compiler import Compiler
from policy_engine.worker.chains.error_answers import ErrorAnswers
from policy_engine.worker.chains.loop_watch import LoopWatch
from policy_engine.worker.conditions.condition import ConditionRefused
from policy_engine.worker.offload.helpers import Helpers
from policy_engine.worker.offload.parent import signal_at_its_end
from policy_engine.worker.policies.construction import off_loop
from policy_engine.worker.policies.registry import Registry

if TYPE_CHECKING:
    from policy_engine.telemetry.spans import OpenTelemetryTracing

logger = logging.getLogger("policy_engine.worker_process")

_BATCH = 32
_BATCH_SECONDS = 0.02
"""Records of the live trace go to the supervisor together, so many at a time at most."""

_QUESTIONS = frozenset({"requests", "samples", "denials", "pass"})
_IDLE = CountersSnapshot(
    **dict.fromkeys(CountersSnapshot.__slots__, 0)  # type: ignore[arg-type] # every field but two is an int
    | {"protocol_errors": {}, "connections_refused": {}}
)


LAST_RESORT = 12
"""After so many times `worker_timeout` a worker process that hangs ends itself: its supervisor would have ended it long
before. A machine that stands still for so long (a paused container) has all worker processes started again."""

START_SECONDS = 120.0
"""The same for the time before it gives its first sign of life."""


def sign_of_life_interval(timeout: float) -> float:
    """Return how many seconds pass between signs of life, for a worker process that is replaced after `timeout`."""
    return min(0.5, timeout / 8)


class Transport(Protocol):
    """What a worker needs of a transport; both have it."""

    @property
    def counters(self) -> CountersSnapshot:
        """What was counted so far."""
        ...

    async def start(self) -> None:
        """Listen and serve."""
        ...

    def reload_tls(self) -> None:
        """Read the files of TLS again, for connections to come; raises ValueError and keeps what was read before."""
        ...

    async def drain(self, seconds: float) -> object:
        """Finish what is in flight."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What the supervisor tells a worker at its start; plain values, they cross the channel as JSON.

    `inherited` are file descriptors of listening sockets; `bind` are the worker's own addresses, all others are shared
    by all workers. `taken` says which of its own it need not bind, and where among the inherited their sockets are.
    `worker_timeout` is after how many seconds without a sign of life the supervisor replaces it. `development`: each
    request is told at the terminal, and a client is shown the traceback of a policy that fails. With `strict` it loads
    policies only if they still are what the registry says.
    """

    number: int
    bind: tuple[str, ...]
    transport: str
    policies: str
    route_key: tuple[str, ...]
    pass_unmapped: bool
    body_limit: int
    drain_seconds: float
    blocking_threads: int
    log_level: str
    log_format: str
    construction_seconds: float = CONSTRUCTION_SECONDS
    reuse_port: bool = False
    certificate_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_names: tuple[str, ...] = ()
    tracing_endpoint: str = ""
    tracing_sample_ratio: float = 1.0
    tracing_service_name: str = "policy-engine"
    envoy_buffer_limit: int | None = None
    header_count: int = HEADER_COUNT
    header_size: int = HEADER_SIZE
    error_format: str = ErrorFormat.PROBLEM
    limits: dict[str, int] = field(default_factory=dict)
    inherited: tuple[int, ...] = ()
    taken: dict[str, int] = field(default_factory=dict)
    worker_timeout: float = WORKER_SECONDS
    strict: bool = False
    development: bool = False
    decisions: str = "denials"
    decision_output: str = "log"
    decision_endpoint: str = ""
    decision_sample_ratio: float = 1.0
    decision_condition: str = ""
    offload_processes: int = OFFLOAD_PROCESSES
    offload_waiting: int = OFFLOAD_WAITING
    metrics_detail: str = "policy"
    metrics_top_routes: int = TOP_ROUTES

    @classmethod
    def from_message(cls, message: Message) -> WorkerOptions:
        """Return the options that the supervisor sent."""
        tuples = ("bind", "inherited", "route_key")
        return cls(**{**message, **{name: tuple(message[name]) for name in tuples}})

    def server(self) -> ServerOptions:
        """Return the transport's part."""
        tls = None
        if self.certificate_file:
            client_ca = Path(self.client_ca_file) if self.client_ca_file else None
            tls = TlsOptions(Path(self.certificate_file), Path(self.key_file), client_ca, tuple(self.client_names))
        return ServerOptions(bind=self.bind, tls=tls, limits=Limits(**self.limits), reuse_port=self.reuse_port)


class WorkerProcess:
    """Answers the supervisor's messages until it is drained or the supervisor is gone."""

    def __init__(self, channel: Channel, options: WorkerOptions, registry: Registry, passing: socket.socket) -> None:
        self._channel = channel
        self._passing = passing
        self._own: dict[str, socket.socket] = {}
        self._options = options
        self._tracing = _tracing(options)
        self._log, self._close_decisions = _decision_log(options)
        log = self._log
        self._decisions: Decisions | None = ShownFailures(log) if options.development else log
        self._preparing: asyncio.Task[None] | None = None
        self._kernel = Kernel(
            KernelOptions(
                route_key=RouteKey(options.route_key),
                pass_unmapped=options.pass_unmapped,
                body_limit=options.body_limit,
                envoy_buffer_limit=options.envoy_buffer_limit,
                header_count=options.header_count,
                header_size=options.header_size,
                errors=ErrorAnswers(ErrorFormat(options.error_format)),
            ),
            self._tracing,
            self._decisions,
        )
        self._compiler = Compiler(
            registry,
            options.blocking_threads,
            options.construction_seconds,
            self._tracing,
            self._decisions,
            body_limit=options.body_limit,
            helpers=Helpers(options.offload_processes, options.offload_waiting),
        )
        self._live = LiveTrace(options.number, self._traces_wait)
        watchers: tuple[Watcher, ...] = (self._live, DebugLines(), *_passed_requests(options, log))
        if options.development:
            watchers = (*watchers, TerminalLines(lambda text: print(text, flush=True)))
        self._recorder = Recorder(self._kernel, watchers)
        self._recorder.refresh()
        self._sending: asyncio.Task[None] | None = None
        self._health = Health()
        self._watch = LoopWatch()
        self._delay = LoopDelay()
        self._leftovers = Leftovers()
        self._sums = RouteSums(options.metrics_detail)
        self._server: Transport | None = None
        self._certificates: CertificateWatch | None = None
        self._prepared: Snapshot | None = None

    async def run(self) -> None:
        """Serve until the end; returns after the drain."""
        self._watch.start()
        await self._channel.send({"ready": os.getpid()})
        self._signs = asyncio.ensure_future(self._give_signs_of_life())
        self._measuring = asyncio.ensure_future(self._delay.run())
        while (message := await self._channel.receive()) is not None:
            if "prepare" in message:
                # Beside the other messages: chains may take long to build.
                await self._drop_prepared()
                self._preparing = asyncio.ensure_future(self._prepare(message))
            elif "commit" in message:
                await self._commit(message)
            elif "abort" in message:
                await self._drop_prepared()
            elif "listen" in message:
                problem = await self._listen()
                answer: Message = {"listening": message["listen"]}
                await self._channel.send(answer | ({"problem": problem} if problem else {}))
            elif not _QUESTIONS.isdisjoint(message):
                await self._answer(message)
            elif "trace" in message:
                self._listen_to(**message["trace"])
            elif "untrace" in message:
                self._live.leave(message["untrace"])
                self._recorder.refresh()
            elif "log_level" in message:
                set_level(message["log_level"])
                self._recorder.refresh()
            elif "drain" in message:
                if message["still_served"]:
                    self._health.drain(still_served=True)
                break
            if "told" in message:
                await self._channel.send({"told": message["told"]})
        await self.drain()
        with contextlib.suppress(ConnectionError):
            # What was counted since somebody asked would be lost.
            await self._channel.send({"samples_at_end": await self._samples()})

    async def _answer(self, message: Message) -> None:
        if "requests" in message:
            requests = self._kernel.requests_by_route()
            await self._channel.send({"requests": message["requests"], "values": requests})
        elif "samples" in message:
            self._sums.named = None if message["named"] is None else frozenset(message["named"])
            await self._channel.send({"samples": message["samples"], "values": await self._samples()})
        elif "denials" in message:
            recent = [] if self._log is None else list(self._log.recent)
            await self._channel.send({"denials": message["denials"], "values": recent})
        else:
            await self._pass_sockets(message["pass"])

    async def _give_signs_of_life(self) -> None:
        """Tell the supervisor again and again that this loop runs, and how the servers do that policies ask.

        While something holds the loop, nothing is told.
        """
        interval = sign_of_life_interval(self._options.worker_timeout)
        last = LAST_RESORT * self._options.worker_timeout
        with contextlib.suppress(ConnectionError):
            while True:
                end_unless_told_again(last)
                states = [asdict(one) for one in dependency_states()]
                await self._channel.send({"alive": True, "dependencies": states})
                if self._server is not None:
                    self._leftovers.look(self._server.counters.streams_total)
                await asyncio.sleep(interval)
        # The supervisor is gone; what is in flight ends here, unless something hangs before.
        while True:
            end_unless_told_again(last)
            await asyncio.sleep(interval)

    def _listen_to(self, number: int, route: str, where: str, bodies: int) -> None:
        """Record for one more listener of the live trace."""
        try:
            self._live.listen(number, Filter(route, where, bodies))
        except ConditionRefused:
            logger.exception("a condition that the supervisor takes is refused here")
        self._recorder.refresh()

    def _traces_wait(self) -> None:
        if self._sending is None or self._sending.done():
            self._sending = asyncio.ensure_future(self._send_traces())

    async def _send_traces(self) -> None:
        """Send what waits, a batch at a time: while the supervisor is slow it goes on waiting, and is dropped."""
        await asyncio.sleep(_BATCH_SECONDS)
        with contextlib.suppress(ConnectionError):
            while True:
                records, dropped = self._live.take(_BATCH)
                if not records and not dropped:
                    return
                await self._channel.send({"traced": records, "dropped": dropped})

    async def drain(self) -> None:
        """Take no new streams and finish those in flight, within the configured time (R-54)."""
        self._health.drain()
        if self._server is not None:
            await self._server.drain(self._options.drain_seconds)
        self._watch.stop()
        if self._certificates is not None:
            self._certificates.stop()
        self._compiler.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
        await asyncio.to_thread(self._close_decisions)

    async def _prepare(self, message: Message) -> None:
        """Compile, but change nothing; in a thread, so that streams in flight are not held up."""
        try:
            spec = spec_from_message(message["spec"])
            self._prepared = await off_loop(self._compiler.compile, spec, self._kernel.snapshot)
        except Exception as error:
            await self._channel.send({"prepared": message["prepare"], "problem": f"{type(error).__name__}: {error}"})
        else:
            await self._channel.send({"prepared": message["prepare"]})

    async def _commit(self, message: Message) -> None:
        snapshot, self._prepared = self._prepared, None
        problem = "nothing was prepared"
        if snapshot is not None:
            self._kernel.activate(snapshot)
            problem = ""
        await self._channel.send({"committed": message["commit"], **({"problem": problem} if problem else {})})

    async def _listen(self) -> str:
        """Start to serve, with a configuration active; returns what went wrong, or nothing."""
        if self._server is None:
            try:
                server = await self._start_transport()
            except OSError as error:
                return error.strerror or str(error)
            except ValueError as error:
                return str(error)
            self._server = server
            tls = self._options.server().tls
            if tls is not None:
                self._certificates = CertificateWatch(tls, server.reload_tls)
                self._certificates.start()
            # What is loaded now lives as long as the process: keep the collector from scanning it again and again.
            gc.collect()
            gc.freeze()
        self._health.set_serving(True)
        return ""

    async def _start_transport(self) -> Transport:
        """Return a server that listens; raises OSError or ValueError, and then can be called again."""
        options, server = self._options, self._options.server()
        if options.transport == "grpcio":
            from policy_engine.transport.grpc_server import GrpcServer  # noqa: PLC0415 - grpcio costs 0.2 s to import

            grpcio = GrpcServer(self._recorder.handler, server, self._health)
            await grpcio.start()
            return grpcio
        taken = options.taken
        with contextlib.ExitStack() as undo:
            # Copies, so that all that was inherited is still there for the next attempt.
            passed = dict(enumerate(undo.enter_context(socket.socket(fileno=os.dup(one))) for one in options.inherited))
            own = {
                one: passed.pop(taken[one])
                if one in taken
                else undo.enter_context(listen.bind(one, backlog=server.backlog))
                for one in server.bind
            }
            native = NativeServer(
                self._recorder.handler, server, self._health, sockets=[*passed.values(), *own.values()]
            )
            await native.start()
            undo.pop_all()
        for one in options.inherited:
            os.close(one)
        self._own = own
        return native

    async def _pass_sockets(self, turn: int) -> None:
        """Give the supervisor what this process alone accepts from, while it goes on accepting."""
        own = {address: sock for address, sock in self._own.items() if sock.fileno() >= 0}
        answer: Message = {"passed": turn}
        try:
            send_descriptors(self._passing, answer | {"addresses": list(own)}, [one.fileno() for one in own.values()])
        except OSError as error:
            answer["problem"] = str(error)
        await self._channel.send(answer)

    async def _drop_prepared(self) -> None:
        if self._preparing is not None:
            await self._preparing
        snapshot, self._prepared = self._prepared, None
        if snapshot is not None:
            active = self._kernel.snapshot
            kept = set(map(id, active.chains.values())) if active is not None else set()
            close_chains(chain for chain in snapshot.chains.values() if id(chain) not in kept)

    async def _samples(self) -> Any:
        await count_policies(self._compiler, self._sums)
        counters = self._server.counters if self._server is not None else _IDLE
        return worker_samples(self._kernel, self._compiler, counters, self._sums) | self._delay.samples()


def _tracing(options: WorkerOptions) -> OpenTelemetryTracing | None:
    if not options.tracing_endpoint:
        return None
    from policy_engine.telemetry.spans import OpenTelemetryTracing  # noqa: PLC0415 - costs 0.3 s to import

    return OpenTelemetryTracing(
        options.tracing_endpoint, options.tracing_sample_ratio, options.tracing_service_name, options.number
    )


def _decision_log(options: WorkerOptions) -> tuple[DecisionLog | None, Callable[[], None]]:
    if options.decisions == "off":
        return None, lambda: None
    logger, close = decision_logger(
        options.decision_output, options.decision_endpoint, options.tracing_service_name, options.number
    )
    return DecisionLog(logger), close


def _passed_requests(options: WorkerOptions, log: DecisionLog | None) -> list[PassedRequests]:
    if log is None or options.decisions != "all":
        return []
    wanted = Filter(where=options.decision_condition).condition()
    return [PassedRequests(log, options.decision_sample_ratio, wanted)]


async def _main(sock: socket.socket, passing: socket.socket, inherited: tuple[int, ...], registry: Registry) -> int:
    channel = await Channel.over(sock)
    first = await channel.receive()
    if first is None:
        return 1
    # The numbers that the supervisor knows these sockets by are its own.
    options = replace(WorkerOptions.from_message(first["start"]), inherited=inherited)
    configure_logging(options.log_level, options.log_format, worker=options.number)
    try:
        worker = WorkerProcess(channel, options, registry, passing)
    except Exception as error:
        logger.exception("worker cannot start")
        await channel.send({"failed": str(error)})
        return 1
    await worker.run()
    return 0


def main(channel: int, record: int, passing: int, inherited: tuple[int, ...], registry: Registry) -> int:
    """Run a worker process with these policies.

    Its channel, flight record, way to pass sockets and shared sockets are these files.
    """
    # The supervisor decides how worker processes end, and tells them over the channel.
    ignore_stray_signals()
    keep_record(record)
    end_unless_told_again(START_SECONDS)
    # One that was stopped goes on when its parent has ended, as that does with the supervisor, and then sees that.
    signal_at_its_end(signal.SIGCONT)
    let_signals_in()
    return asyncio.run(_main(socket.socket(fileno=channel), socket.socket(fileno=passing), inherited, registry))
