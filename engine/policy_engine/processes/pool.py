"""The supervisor's view of its worker processes: starts them, hands each configuration to all, restarts the dead.

A configuration takes effect in two steps, prepare and commit, so that all workers have it or none (R-50, R-55).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

from policy_engine.processes.channel import Channel, Message, spec_to_message
from policy_engine.processes.serving import WorkerOptions
from policy_engine.settings.model import WORKER_PLACE
from policy_engine.telemetry.metrics import Samples, add_samples
from policy_engine.transport.listen import bind, parse_unix
from policy_engine.worker.chains.spec import ChainsSpec

logger = logging.getLogger("policy_engine.supervisor")

START_SECONDS = 60.0
PREPARE_SECONDS = 60.0
"""For all chains together, beyond what one constructor may take."""
COMMIT_SECONDS = 30.0
SAMPLES_SECONDS = 2.0
FIRST_RESTART_SECONDS = 0.1
LONGEST_RESTART_SECONDS = 10.0
STABLE_SECONDS = 30.0


class WorkerFailed(Exception):
    """A worker did not start, did not answer in time, or refused a configuration; the message says which and why."""


class WorkerSilent(WorkerFailed):
    """A worker did not answer in time: nobody knows what it runs."""


class _Worker:
    """One running worker process and the conversation with it."""

    def __init__(self, options: WorkerOptions) -> None:
        self.options = options
        self.started = time.monotonic()
        self.samples: Samples = {}
        self._answers: dict[str, tuple[int, asyncio.Future[Message]]] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._asked = 0

    async def start(self) -> None:
        mine, theirs = socket.socketpair()
        try:
            theirs.set_inheritable(True)
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the working directory adds no code
                "-m",
                "policy_engine.processes.serving",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(), *self.options.inherited),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
            )
        finally:
            theirs.close()
        self._channel = await Channel.over(mine)
        ready = self._expect("ready", self.process.pid)
        self._reader = asyncio.ensure_future(self._read())
        try:
            await self._channel.send({"start": asdict(self.options)})
            await self._answer(ready, START_SECONDS, "become ready")
        except (WorkerFailed, ConnectionError) as error:
            self.kill()
            raise WorkerFailed(str(error)) from error

    async def prepare(self, turn: int, spec: Message) -> None:
        seconds = PREPARE_SECONDS + self.options.construction_seconds
        await self._ask("prepared", turn, {"prepare": turn, "spec": spec}, seconds)

    async def commit(self, turn: int) -> None:
        await self._ask("committed", turn, {"commit": turn}, COMMIT_SECONDS)

    async def abort(self, turn: int) -> None:
        with contextlib.suppress(ConnectionError):
            await self._channel.send({"abort": turn})

    async def fetch_samples(self) -> None:
        """Bring `samples` up to date; a worker that does not answer keeps its last ones."""
        with contextlib.suppress(WorkerFailed, ConnectionError):
            self._asked += 1
            answer = await self._ask("samples", self._asked, {"samples": self._asked}, SAMPLES_SECONDS)
            self.samples = {
                name: [(labels, value) for labels, value in rows] for name, rows in answer["values"].items()
            }

    async def drain(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self._channel.send({"drain": True})

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def _ask(self, kind: str, turn: int, message: Message, seconds: float) -> Message:
        async with self._turns[kind]:
            answer = self._expect(kind, turn)
            try:
                await self._channel.send(message)
            except ConnectionError as error:
                raise WorkerFailed(f"worker {self.options.number} is gone") from error
            reply = await self._answer(answer, seconds, f"answer with {kind!r}")
        if "problem" in reply:
            raise WorkerFailed(f"worker {self.options.number}: {reply['problem']}")
        return reply

    def _expect(self, kind: str, turn: int) -> asyncio.Future[Message]:
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[kind] = turn, future
        return future

    async def _answer(self, future: asyncio.Future[Message], seconds: float, what: str) -> Message:
        try:
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            raise WorkerSilent(f"worker {self.options.number} did not {what} within {seconds:g} s") from None

    async def _read(self) -> None:
        reason = "ended"
        while (message := await self._channel.receive()) is not None:
            if "failed" in message:
                reason = message["failed"]
                continue
            for kind, (turn, future) in self._answers.items():
                # An answer that comes too late must not be taken for that to a later question.
                if message.get(kind) == turn and not future.done():
                    future.set_result(message)
        for _, future in self._answers.values():
            if not future.done():
                future.set_exception(WorkerFailed(f"worker {self.options.number} {reason}"))
        self._channel.close()


class WorkerPool:
    """A fixed number of workers; `changed` is called whenever the number of those that serve may have changed."""

    def __init__(self, count: int, options: WorkerOptions, changed: Callable[[], None] = lambda: None) -> None:
        self._given = options
        self._options = [self._numbered(options, number, count) for number in range(count)]
        self._shared = self._shared_paths(options, count)
        self._sockets: list[socket.socket] = []
        self._workers: dict[int, _Worker] = {}
        self._configured: set[int] = set()
        self._spec: Message | None = None
        self._turn = 0
        self._applying = asyncio.Lock()
        self._watchers: set[asyncio.Task[None]] = set()
        self._draining = False
        self._departed: Samples = {}
        self._delays: dict[int, float] = {}
        self._changed = changed
        self.restarts = 0

    def _numbered(self, options: WorkerOptions, number: int, count: int) -> WorkerOptions:
        """Give worker `number` its addresses: `{worker}` filled in, Unix sockets without it shared by all."""
        shared = self._shared_paths(options, count)
        own = tuple(one.replace(WORKER_PLACE, str(number)) for one in options.bind if one not in shared)
        reuse = any(WORKER_PLACE not in one and not one.startswith("unix:") for one in options.bind)
        return replace(options, number=number, bind=own, reuse_port=reuse and count > 1)

    @staticmethod
    def _shared_paths(options: WorkerOptions, count: int) -> tuple[str, ...]:
        if count == 1:
            return ()
        return tuple(one for one in options.bind if one.startswith("unix:") and WORKER_PLACE not in one)

    def _share_sockets(self) -> None:
        """Bind the Unix sockets that all workers accept from; raises OSError naming the path."""
        if self._shared and self._given.transport == "grpcio":
            raise OSError(
                f"{self._shared[0]} cannot be shared by {len(self._options)} workers over the grpcio transport: "
                f"write {WORKER_PLACE} into the path, so that each has its own, or use `transport: native`"
            )
        self._sockets = [bind(one) for one in self._shared]
        inherited = tuple(sock.fileno() for sock in self._sockets)
        self._options = [replace(one, inherited=inherited) for one in self._options]

    @property
    def serving(self) -> int:
        """How many workers run with the active configuration."""
        return len(self._configured)

    @property
    def complete(self) -> bool:
        """Whether every worker runs with the active configuration (R-50)."""
        return self.serving == len(self._options)

    async def start(self) -> None:
        """Start every worker; raises WorkerFailed when one cannot start at all, OSError for an address."""
        self._share_sockets()
        await asyncio.gather(*(self._start_one(number) for number in range(len(self._options))))

    async def apply(self, spec: ChainsSpec) -> None:
        """Make `spec` active in every worker, or in none; raises WorkerFailed with the worker's reason."""
        message = spec_to_message(spec)
        async with self._applying:
            self._turn += 1
            turn, workers = self._turn, dict(self._workers)
            results = await asyncio.gather(
                *(worker.prepare(turn, message) for worker in workers.values()), return_exceptions=True
            )
            # A worker that died meanwhile does not speak against the configuration (its successor will get it), unless
            # it was all of them: then the configuration is what they died of, as far as anybody can know.
            errors = {number: one for number, one in zip(workers, results, strict=True) if one is not None}
            refused = [one for number, one in errors.items() if self._workers.get(number) is workers[number]]
            if refused or (workers and len(errors) == len(workers)):
                await asyncio.gather(*(worker.abort(turn) for worker in workers.values()))
                raise next(iter(refused or errors.values()))
            self._spec = message
            await self._commit(turn, workers)
        self._changed()

    async def _commit(self, turn: int, workers: Mapping[int, _Worker]) -> None:
        results = await asyncio.gather(*(worker.commit(turn) for worker in workers.values()), return_exceptions=True)
        problems = []
        for number, error in zip(workers, results, strict=True):
            if error is None:
                self._configured.add(number)
                continue
            self._configured.discard(number)
            if self._workers.get(number) is not workers[number]:
                continue
            if isinstance(error, WorkerSilent):
                # What it runs is not known, and the others run the new chains already: its successor will too.
                logger.error("%s, killed", error, extra={"worker": number})
                workers[number].kill()
            else:
                problems.append(error)
        if problems:
            raise problems[0]

    def _release_sockets(self) -> None:
        for sock, address in zip(self._sockets, self._shared, strict=False):
            sock.close()
            parse_unix(address).path.unlink(missing_ok=True)
        self._sockets = []

    async def samples(self) -> Samples:
        """Return the sum over all workers, those that died included."""
        await asyncio.gather(*(worker.fetch_samples() for worker in self._workers.values()))
        total: Samples = {}
        add_samples(total, self._departed)
        for worker in self._workers.values():
            add_samples(total, worker.samples)
        return total

    async def drain(self, seconds: float) -> None:
        """Drain all workers; those still running after `seconds` and a grace are killed."""
        self._draining = True
        workers = list(self._workers.values())
        await asyncio.gather(*(worker.drain() for worker in workers))
        waiting = [asyncio.ensure_future(worker.process.wait()) for worker in workers]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=seconds + 2.0)
            for worker in workers:
                if worker.process.returncode is None:
                    logger.error("worker %d did not end in time, killed", worker.options.number)
                    worker.kill()
            if late:
                await asyncio.wait(late, timeout=5.0)
        for watcher in self._watchers:
            watcher.cancel()
        self._release_sockets()

    async def _start_one(self, number: int) -> _Worker:
        self._clear_socket(self._options[number])
        worker = _Worker(self._options[number])
        await worker.start()
        self._workers[number] = worker
        watcher = asyncio.ensure_future(self._watch(number, worker))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return worker

    @staticmethod
    def _clear_socket(options: WorkerOptions) -> None:
        """Remove the Unix socket of a worker that died: the path is this worker's own."""
        for address in options.bind:
            if address.startswith("unix:"):
                path = parse_unix(address).path
                if path.is_socket():
                    path.unlink()

    async def _watch(self, number: int, worker: _Worker) -> None:
        code: object = await worker.process.wait()
        self._workers.pop(number, None)
        self._configured.discard(number)
        add_samples(self._departed, worker.samples, keep_gauges=False)
        self._changed()
        if time.monotonic() - worker.started > STABLE_SECONDS:
            self._delays.pop(number, None)
        while not self._draining:
            delay = self._delays.get(number, FIRST_RESTART_SECONDS)
            self._delays[number] = min(delay * 2, LONGEST_RESTART_SECONDS)
            logger.error("worker %d ended (%s), restart in %.1f s", number, code, delay, extra={"worker": number})
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            self.restarts += 1
            try:
                successor = await self._start_one(number)
            except (WorkerFailed, OSError) as error:
                code = error
                continue
            # From here on the successor has a watcher of its own.
            await self._configure(number, successor)
            return

    async def _configure(self, number: int, worker: _Worker) -> None:
        """Give a restarted worker the active configuration; one that does not take it is killed, to be restarted."""
        async with self._applying:
            if self._spec is not None:
                self._turn += 1
                try:
                    await worker.prepare(self._turn, self._spec)
                    await worker.commit(self._turn)
                except WorkerFailed as error:
                    logger.error("the active configuration does not load: %s", error, extra={"worker": number})
                    worker.kill()
                    return
                self._configured.add(number)
        self._changed()
