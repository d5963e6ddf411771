"""One worker process as the supervisor sees it: how it is started, spoken with, and known to be alive."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict

from policy_engine.processes.channel import Channel, Message
from policy_engine.processes.flight_record import STACK_SIGNAL, FlightRecord, LastSeen, is_stopped
from policy_engine.processes.forked import ForkServer
from policy_engine.processes.listening import Listening
from policy_engine.processes.passing import NotPassed, receive_descriptors
from policy_engine.processes.serving import WorkerOptions
from policy_engine.sdk.dependencies import DependencyState
from policy_engine.telemetry.samples import Samples

START_SECONDS = 60.0
PREPARE_SECONDS = 60.0
"""For all chains together, beyond what one constructor may take."""
COMMIT_SECONDS = 30.0
LISTEN_SECONDS = 30.0
SAMPLES_SECONDS = 2.0
SOCKETS_SECONDS = 2.0
PASSED_SECONDS = 1.0
TOLD_SECONDS = 2.0
DRAIN_MESSAGE_SECONDS = 1.0
STACK_SECONDS = 0.2
"""For a process that hangs to write down where."""


class WorkerFailed(Exception):
    """A worker process did not do what it was asked; the message says which and why."""


class WorkerSilent(WorkerFailed):
    """A worker process did not answer in time: nobody knows what it runs."""


class WorkerGone(WorkerFailed):
    """A worker process ended before it answered, which says nothing about what it was asked."""


class Child:
    """One running worker process and the conversation with it. `heard` is when it last sent anything (monotonic).

    `told` is given what it sends without being asked.
    """

    def __init__(self, options: WorkerOptions, told: Callable[[Message], None] = lambda message: None) -> None:
        self.options = options
        self._told = told
        self.started = time.monotonic()
        self.heard = self.started
        self.quiet = False
        """Whether it has been silent for so long that it does not count as serving."""
        self.hung = False
        """Whether it was killed for its silence."""
        self.samples: Samples = {}
        self.requests: dict[str, int] = {}
        """How many requests each route had, all routes apart."""
        self.dependencies: list[DependencyState] = []
        """The servers that its policies ask, as of its last sign of life."""
        self.taken: Message | None = None
        """The chains it runs, as they were sent."""
        self._answers: dict[str, tuple[int, asyncio.Future[Message]]] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._asked = 0
        self._ended = False
        self._record = FlightRecord()
        self._passing: socket.socket | None = None
        """Where sockets come from; the channel has words alone."""

    async def start(self, server: ForkServer) -> None:
        """Have `server` fork it, and return when it is ready to be given chains; raises WorkerFailed or OSError."""
        mine, theirs = socket.socketpair()
        self._passing, passing = socket.socketpair()
        self._passing.settimeout(PASSED_SECONDS)
        with theirs, passing:
            passed = (theirs.fileno(), self._record.descriptor, passing.fileno(), *self.options.inherited)
            self.process = await server.fork(passed)
        self._channel = await Channel.over(mine)
        ready = self._expect("ready", self.process.pid)
        self._reader = asyncio.ensure_future(self._read())
        try:
            await self._channel.send({"start": asdict(self.options)})
            await self._answer(ready, START_SECONDS, "become ready")
        except (WorkerFailed, ConnectionError) as error:
            self.kill()
            raise WorkerFailed(str(error)) from error

    @property
    def alive(self) -> bool:
        """Whether it is there to be asked, as far as is known."""
        return not self._ended and self.process.returncode is None

    @property
    def silence(self) -> float:
        """Seconds since it last gave a sign of life."""
        return time.monotonic() - self.heard

    async def prepare(self, turn: int, spec: Message) -> None:
        """Have it build the chains; raises WorkerFailed with what is wrong with them, or WorkerGone."""
        seconds = PREPARE_SECONDS + self.options.construction_seconds
        await self._ask("prepared", turn, {"prepare": turn, "spec": spec}, seconds)

    async def commit(self, turn: int, spec: Message) -> None:
        """Have it serve from the chains that it built."""
        await self._ask("committed", turn, {"commit": turn}, COMMIT_SECONDS)
        self.taken = spec

    async def tell(self, message: Message) -> None:
        """Have it take note of `message`; one that is gone needs nothing."""
        with contextlib.suppress(WorkerFailed):
            self._asked += 1
            await self._ask("told", self._asked, message | {"told": self._asked}, TOLD_SECONDS)

    async def abort(self, turn: int) -> None:
        """Have it forget the chains that it built."""
        with contextlib.suppress(ConnectionError):
            await self._channel.send({"abort": turn})

    async def listen(self) -> None:
        """Have it listen, if it does not yet; raises WorkerFailed with the address and the reason."""
        self._asked += 1
        await self._ask("listening", self._asked, {"listen": self._asked}, LISTEN_SECONDS)

    async def sockets(self, until: ExitStack) -> list[Listening]:
        """Return copies of the sockets that it alone accepts from, which `until` closes; none of one that hangs."""
        if self.quiet or not self.alive or self._passing is None:
            return []
        with contextlib.suppress(WorkerFailed, NotPassed, OSError):
            self._asked += 1
            turn = self._asked
            await self._ask("passed", turn, {"pass": turn}, SOCKETS_SECONDS)
            # It answers when they are sent, so that nothing is waited for here.
            while True:
                message, descriptors = receive_descriptors(self._passing)
                sockets = [until.enter_context(socket.socket(fileno=one)) for one in descriptors]
                if message["passed"] == turn:  # not what was asked for once and came too late
                    return [Listening(*one) for one in zip(message["addresses"], sockets, strict=True)]
        return []

    async def fetch_samples(self, named: frozenset[str] | None) -> None:
        """Bring `samples` up to date, with the routes `named` apart, None for all of them.

        A worker process that does not answer keeps its last ones.
        """
        if self.quiet:
            return
        with contextlib.suppress(WorkerFailed):
            self._asked += 1
            question = {"samples": self._asked, "named": None if named is None else sorted(named)}
            answer = await self._ask("samples", self._asked, question, SAMPLES_SECONDS)
            self._take(answer["values"])

    async def fetch_requests(self) -> None:
        """Bring `requests` up to date."""
        if self.quiet:
            return
        with contextlib.suppress(WorkerFailed):
            self._asked += 1
            answer = await self._ask("requests", self._asked, {"requests": self._asked}, SAMPLES_SECONDS)
            self.requests = answer["values"]

    async def denials(self) -> list[Message]:
        """Return the last requests that it denied or failed, nothing when it does not answer."""
        if not self.quiet:
            with contextlib.suppress(WorkerFailed):
                self._asked += 1
                answer = await self._ask("denials", self._asked, {"denials": self._asked}, SAMPLES_SECONDS)
                return list(answer["values"])
        return []

    def _take(self, values: Message) -> None:
        self.samples = {name: [(labels, value) for labels, value in rows] for name, rows in values.items()}

    async def drain(self, *, still_served: bool = False) -> None:
        """Tell it to take nothing new and to end; `still_served`: another engine has its addresses."""
        # One that hangs takes nothing from its channel, which may be full.
        with contextlib.suppress(ConnectionError, TimeoutError):
            message = {"drain": True, "still_served": still_served}
            await asyncio.wait_for(self._channel.send(message), DRAIN_MESSAGE_SECONDS)

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError, AttributeError):  # it may not even be started
            self.process.kill()

    async def last_seen(self) -> LastSeen:
        """Return what it is doing, for one that hangs: it is asked for its stack, which needs no answer of its loop."""
        if not self.stopped:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(STACK_SIGNAL)
            await asyncio.sleep(STACK_SECONDS)
        return self._record.read()

    @property
    def stopped(self) -> bool:
        """Whether somebody stopped it (SIGSTOP)."""
        return is_stopped(self.process.pid)

    def close(self) -> None:
        """Give back what is held for it, once it has ended."""
        self._record.close()
        if self._passing is not None:
            self._passing.close()

    def ending(self) -> str:
        """Say how it ended."""
        code = self.process.returncode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return f"by {signal.Signals(-code).name}"
        return f"with exit status {code}"

    async def _ask(self, kind: str, turn: int, message: Message, seconds: float) -> Message:
        async with self._turns[kind]:
            answer = self._expect(kind, turn)
            sending = asyncio.ensure_future(self._channel.send(message))
            try:
                reply = await self._answer(answer, seconds, f"answer with {kind!r}")
            finally:
                sending.cancel()
                with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                    await sending
        if "problem" in reply:
            raise WorkerFailed(f"worker process {self.options.number}: {reply['problem']}")
        return reply

    def _expect(self, kind: str, turn: int) -> asyncio.Future[Message]:
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        if self._ended:
            future.set_exception(WorkerGone(f"worker process {self.options.number} ended"))
        self._answers[kind] = turn, future
        return future

    async def _answer(self, future: asyncio.Future[Message], seconds: float, what: str) -> Message:
        try:
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            raise WorkerSilent(f"worker process {self.options.number} did not {what} within {seconds:g} s") from None

    async def _read(self) -> None:
        reason = "ended"
        while (message := await self._channel.receive()) is not None:
            self.heard = time.monotonic()
            if "samples_at_end" in message:
                self._take(message["samples_at_end"])
                continue
            if "traced" in message:
                self._told(message)
                continue
            if "alive" in message:
                self.dependencies = [DependencyState(**one) for one in message["dependencies"]]
            if "failed" in message:
                reason = message["failed"]
                continue
            for kind, (turn, future) in self._answers.items():
                # An answer that comes too late must not be taken for that to a later question.
                if message.get(kind) == turn and not future.done():
                    future.set_result(message)
        self._ended = True
        for _, future in self._answers.values():
            if not future.done():
                future.set_exception(WorkerGone(f"worker process {self.options.number} {reason}"))
        self._channel.close()


async def still_running(waiting: Mapping[asyncio.Future[int], Child], seconds: float) -> list[Child]:
    """Wait for processes to end, for at most `seconds`; returns those that have not."""
    if not waiting:
        return []
    _, late = await asyncio.wait(waiting, timeout=seconds)
    return [waiting[one] for one in late]
