"""The supervisor's view of its worker processes: starts them, hands them every configuration, replaces dead and hung.

A configuration takes effect in two steps, prepare and commit, so that all that live have it or none (R-50, R-55). One
that dies or hangs meanwhile does not speak against it: its successor gets it before it listens.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from functools import partial

from policy_engine.processes.channel import Message, spec_to_message
from policy_engine.processes.child import Child, WorkerFailed, WorkerGone, still_running
from policy_engine.processes.forked import ForkServer, ForkServers
from policy_engine.processes.listening import FIRST_RETRY_SECONDS, Given, Listening, PoolSockets
from policy_engine.processes.liveness import Liveness
from policy_engine.processes.serving import WorkerOptions, sign_of_life_interval
from policy_engine.sdk.dependencies import DependencyState, worst_states
from policy_engine.telemetry.metrics import add_samples
from policy_engine.telemetry.route_sums import only_named, requests_of, top_routes
from policy_engine.telemetry.samples import Samples
from policy_engine.worker.chains.spec import ChainsSpec

logger = logging.getLogger("policy_engine.supervisor")

LONGEST_RETRY_SECONDS = 10.0
STABLE_SECONDS = 30.0
DEATHS_OVER_CHAINS = 3
"""So often every worker process may die while it takes a configuration, before that is what they die of."""
DRAIN_GRACE_SECONDS = 2.0
MOST_DENIALS = 50


class WorkerPool:
    """A fixed number of worker processes; `changed` is called whenever the number of those that serve may have changed,
    `told` with what one sends without being asked.

    With `replaceable`, all of them share what they accept from, even one alone, so that `replace` can have new ones
    accept while old ones finish.

    `restarts` counts those that ended and were started again, `hangs` those of them that were killed for their silence.
    """

    def __init__(
        self,
        count: int,
        options: WorkerOptions,
        changed: Callable[[], None] = lambda: None,
        told: Callable[[Message], None] = lambda message: None,
        *,
        replaceable: bool = False,
        given: Given | None = None,
    ) -> None:
        self._given = options
        self._count = count
        self._sockets = PoolSockets(options, count, given or Given(), shared_by_one=replaceable)
        self._children: dict[int, Child] = {}
        self._configured: set[int] = set()
        self._not_listening: dict[int | None, str] = {}
        self._spec: Message | None = None
        self._turn = 0
        self._applying = asyncio.Lock()
        self._arrived = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self._departed: Samples = {}
        self._named: frozenset[str] | None = None
        self._delays: dict[int, float] = {}
        self._changed = changed
        self._leaving: set[Child] = set()
        self._told = told
        self._standing: dict[str, Message] = {}
        self._spares: dict[int, asyncio.Task[Child]] = {}
        self.fork_servers = ForkServers(options.policies, options.strict, options.log_level, options.log_format)
        self._liveness = Liveness(options.worker_timeout, self._children.values, options.policies, self._quiet_or_not)
        self.restarts = 0

    async def _wait_to_listen(self, number: int | None, reason: str, delay: float) -> float:
        """Tell that an address cannot be had, and wait; returns the next delay."""
        self._not_listening[number] = reason
        logger.error("%s; trying again in %.1f s", reason, delay, extra={"event": "not_listening", "worker": number})
        self._changed()
        await asyncio.sleep(delay)
        return min(delay * 2, LONGEST_RETRY_SECONDS)

    @property
    def serving(self) -> int:
        """How many worker processes run with the active configuration, listen, and give signs of life."""
        return sum(1 for number in self._configured if not self._children[number].quiet)

    @property
    def complete(self) -> bool:
        """Whether every worker process serves (R-50)."""
        return self.serving == self._count

    @property
    def hangs(self) -> int:
        """How many worker processes were killed because they gave no sign of life."""
        return self._liveness.hangs

    @property
    def trouble(self) -> str:
        """Why not every worker process serves, as far as it is known."""
        quiet = [child for child in self._children.values() if child.quiet]
        reasons = [
            f"worker process {one.options.number} has given no sign of life for {one.silence:.1f} s" for one in quiet
        ]
        return "; ".join([*dict.fromkeys(self._not_listening.values()), *reasons])

    @property
    def dependencies(self) -> list[DependencyState]:
        """The servers that policies ask, each as the worst off of the worker processes knows it."""
        return worst_states([one for child in self._children.values() for one in child.dependencies])

    def as_documents(self) -> list[dict[str, object]]:
        """Return what is known of each worker process, as JSON data."""
        return [self._document(number) for number in range(self._count)]

    def _document(self, number: int) -> dict[str, object]:
        child = self._children.get(number)
        if child is None:
            return {"number": number, "state": "restarting"}
        state = "silent" if child.quiet else "serving" if number in self._configured else "not listening"
        return {
            "number": number,
            "state": state,
            "pid": child.process.pid,
            "seconds_since_sign_of_life": round(child.silence, 3),
        }

    async def start(self) -> None:
        """Start every worker process; raises WorkerFailed when one cannot start at all, OSError for an address."""
        await self._sockets.open(partial(self._wait_to_listen, None))
        self._not_listening.pop(None, None)
        self._keep(self._liveness.run())
        await asyncio.gather(*(self._start_one(number) for number in range(self._count)))

    async def apply(self, spec: ChainsSpec) -> None:
        """Make `spec` active in every worker process that lives, or in none; raises WorkerFailed with the reason.

        The reason is one that a worker process gave, or that all of them died over it again and again.
        """
        message, deaths = spec_to_message(spec), 0
        while True:
            await self._somebody()
            async with self._applying:
                died = await self._hand_out(message)
            if died is None:
                break
            deaths += 1
            if deaths == DEATHS_OVER_CHAINS:
                raise WorkerFailed(
                    f"every worker process ended while it took them, {deaths} times in a row; last: {died}"
                )
            logger.warning("no worker process lived to take the chains (%s); its successor gets them", died)
        self._changed()

    async def replace(self, spec: ChainsSpec) -> None:
        """Have new processes, which load what is on disk now, take the place of all; the old ones finish their streams.

        Raises WorkerFailed or OSError when one of the new ones cannot run `spec`; the old ones then go on as they were.
        """
        message = spec_to_message(spec)
        async with self._applying:
            self._turn += 1
            server = await self.fork_servers.another()
            made = await asyncio.gather(*(self._new(one, server) for one in range(self._count)), return_exceptions=True)
            fresh = {number: child for number, child in enumerate(made) if isinstance(child, Child)}
            try:
                for failed in made:
                    if isinstance(failed, BaseException):
                        raise failed
                await asyncio.gather(*(child.prepare(self._turn, message) for child in fresh.values()))
                await asyncio.gather(*(child.commit(self._turn, message) for child in fresh.values()))
                await asyncio.gather(*(child.listen() for child in fresh.values()))
            except BaseException:
                for child in fresh.values():
                    child.kill()
                    child.close()
                server.close()
                raise
            self._spec = message
            self.fork_servers.use(server)
            for number, child in fresh.items():
                self._drop_spare(number)
                old = self._children.get(number)
                if old is not None:
                    self._leaving.add(old)
                    self._keep(self._see_off(old))
                self._children[number] = child
                self._configured.add(number)
                self._keep(self._watch(number, child))
        self._arrived.set()
        self._changed()

    async def _see_off(self, child: Child) -> None:
        """Have a process that was replaced finish its streams and end."""
        await child.fetch_samples(self._named)
        await child.drain()
        waiting: dict[asyncio.Future[int], Child] = {asyncio.ensure_future(child.process.wait()): child}
        if await still_running(waiting, self._given.drain_seconds + DRAIN_GRACE_SECONDS):
            logger.error("worker process %d was replaced and did not end in time, killed", child.options.number)
            child.kill()

    async def _somebody(self) -> None:
        """Return when a worker process is there to be asked."""
        while not any(child.alive for child in self._children.values()):
            self._arrived.clear()
            await self._arrived.wait()

    async def _hand_out(self, message: Message) -> WorkerGone | None:
        """Hand chains to all that live; returns None when they are active, else how the last one died over them."""
        self._turn += 1
        turn, children = self._turn, {number: one for number, one in self._children.items() if one.alive}
        results = await asyncio.gather(
            *(child.prepare(turn, message) for child in children.values()), return_exceptions=True
        )
        took: dict[int, Child] = {}
        gone = WorkerGone("there was none")
        refusals = []
        for (number, child), result in zip(children.items(), results, strict=True):
            if result is None:
                took[number] = child
            elif isinstance(result, WorkerGone):
                gone = result
            else:
                refusals.append(result)
        if refusals:
            await asyncio.gather(*(child.abort(turn) for child in children.values()))
            raise refusals[0]
        if not took:
            return gone
        self._spec = message
        await self._commit(turn, took, message)
        return None

    async def _commit(self, turn: int, children: Mapping[int, Child], message: Message) -> None:
        """Make prepared chains active; one that does not do it is replaced, as the others run them already."""
        results = await asyncio.gather(
            *(child.commit(turn, message) for child in children.values()), return_exceptions=True
        )
        outcomes = list(zip(children.items(), results, strict=True))
        await asyncio.gather(*(self._listen(*one) for one, error in outcomes if error is None))
        for (number, child), error in outcomes:
            if error is not None and self._children.get(number) is child:
                self._configured.discard(number)
                if isinstance(error, WorkerGone):
                    continue
                logger.error("%s, killed", error, extra={"worker": number})
                child.kill()

    async def _listen(self, number: int, child: Child) -> None:
        """Have it listen; where it cannot, go on trying: an address in use is no fault of the chains."""
        if number in self._configured or self._children.get(number) is not child:
            return
        try:
            await child.listen()
        except WorkerGone:
            return
        except WorkerFailed as error:
            if number not in self._not_listening:
                self._not_listening[number] = str(error)
                self._keep(self._listen_again(number, child, str(error)))
        else:
            self._serves(number, child)

    async def _listen_again(self, number: int, child: Child, reason: str) -> None:
        delay = FIRST_RETRY_SECONDS
        try:
            while child.alive and not self._draining:
                delay = await self._wait_to_listen(number, reason, delay)
                try:
                    await child.listen()
                except WorkerFailed as error:
                    reason = str(error)
                else:
                    self._serves(number, child)
                    break
        finally:
            self._not_listening.pop(number, None)
            self._changed()

    def _serves(self, number: int, child: Child) -> None:
        if self._children.get(number) is child:
            self._configured.add(number)
            self._sockets.passed(number)

    async def sockets(self, until: ExitStack) -> list[Listening]:
        """Return every socket that is listened on, those of single worker processes as copies that `until` closes."""
        found = self._sockets.shared()
        for copies in await asyncio.gather(*(one.sockets(until) for one in self._children.values())):
            found += copies
        return found

    async def tell(self, key: str, message: Message) -> None:
        """Tell every worker process `message`, also those that are started later, until `withdraw(key, …)`.

        Returns when all that live have it, but for those that do not answer.
        """
        self._standing[key] = message
        await self._tell_all(message)

    async def withdraw(self, key: str, message: Message) -> None:
        """No longer tell what `tell` was given under `key`, and tell `message` instead, once."""
        self._standing.pop(key, None)
        await self._tell_all(message)

    async def _tell_all(self, message: Message) -> None:
        answering = []
        for child in self._children.values():
            if child.quiet:
                self._keep(child.tell(message))  # it is told should it ever listen again
            else:
                answering.append(child.tell(message))
        await asyncio.gather(*answering)

    async def denials(self) -> list[Message]:
        """Return the last requests that were denied or failed in those that live, the newest first."""
        found = await asyncio.gather(*(child.denials() for child in self._children.values()))
        return sorted((one for some in found for one in some), key=lambda one: -one["time"])[:MOST_DENIALS]

    async def samples(self) -> Samples:
        """Return the sum over all worker processes, those that died included."""
        if self._given.metrics_detail != "total":
            await asyncio.gather(*(child.fetch_requests() for child in self._children.values()))
            self._named = self._top_routes()
        await asyncio.gather(*(child.fetch_samples(self._named) for child in self._children.values()))
        total: Samples = {}
        for counted in (self._departed, *(one.samples for one in (*self._children.values(), *self._leaving))):
            add_samples(total, counted)
        return only_named(total, self._named)

    def _top_routes(self) -> frozenset[str] | None:
        """Return the routes that metrics name, by requests of all worker processes."""
        requests = Counter(requests_of(self._departed))
        for child in (*self._children.values(), *self._leaving):
            requests.update(child.requests)
        return top_routes(requests, self._given.metrics_top_routes)

    async def drain(self, seconds: float, kept: frozenset[str] | None = None) -> None:
        """Drain all worker processes within `seconds`; those that hang are killed by then, others after a grace.

        `kept` are the addresses that another engine serves instead, None when there is no other.
        """
        self._draining = True
        # What waits to be accepted is refused, and can go to another engine.
        self._sockets.release(kept or frozenset())
        children = [*self._children.values(), *self._leaving]
        await asyncio.gather(*(child.drain(still_served=kept is not None) for child in children))
        waiting: dict[asyncio.Future[int], Child] = {
            asyncio.ensure_future(child.process.wait()): child for child in children
        }
        late = await still_running(waiting, seconds)
        for child in late:
            if child.silence > 2 * sign_of_life_interval(self._given.worker_timeout):
                logger.error(
                    "worker process %d hangs, killed", child.options.number, extra={"worker": child.options.number}
                )
                child.kill()
        for child in await still_running(waiting, DRAIN_GRACE_SECONDS if late else 0.0):
            logger.error("worker process %d did not end in time, killed", child.options.number)
            child.kill()
        await still_running(waiting, 5.0 if late else 0.0)
        for task in self._tasks:
            task.cancel()
        for number in tuple(self._spares):
            self._drop_spare(number)
        self.fork_servers.close()
        self._sockets.release(kept or frozenset())

    async def _start_one(self, number: int) -> Child:
        """Start a worker process, or take the spare one; raises WorkerFailed or OSError."""
        spare = self._spares.pop(number, None)
        child = await (spare if spare is not None else self._new(number))
        self._children[number] = child
        self._arrived.set()
        for message in tuple(self._standing.values()):
            self._keep(child.tell(message))
        self._keep(self._watch(number, child))
        return child

    async def _new(self, number: int, server: ForkServer | None = None) -> Child:
        child = Child(self._sockets.options(number), self._told)
        try:
            await child.start(server or await self.fork_servers.current())
        except BaseException:
            child.kill()
            child.close()
            raise
        return child

    def _quiet_or_not(self, child: Child) -> None:
        """Have a spare process ready for one that will have to be replaced, as to start takes a while."""
        number = child.options.number
        if child.quiet and number not in self._spares and not self._draining:
            self._spares[number] = asyncio.ensure_future(self._new(number))
        elif not child.quiet:
            self._drop_spare(number)
        self._changed()

    def _drop_spare(self, number: int) -> None:
        spare = self._spares.pop(number, None)
        if spare is not None and not spare.cancel() and not spare.cancelled() and spare.exception() is None:
            spare.result().kill()
            spare.result().close()

    def _keep(self, work: Coroutine[object, object, None]) -> None:
        """Run `work` beside everything else, until the drain."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, number: int, child: Child) -> None:
        await child.process.wait()
        how: object = child.ending()
        child.close()
        add_samples(self._departed, child.samples, keep_gauges=False)
        self._leaving.discard(child)
        if self._children.get(number) is not child:  # it was replaced
            return
        del self._children[number]
        self._configured.discard(number)
        self._changed()
        # One that hung has held up its successor long enough.
        if child.hung or time.monotonic() - child.started > STABLE_SECONDS:
            self._delays.pop(number, None)
        while not self._draining and number not in self._children:
            delay = self._delays.get(number, FIRST_RETRY_SECONDS)
            self._delays[number] = min(delay * 2, LONGEST_RETRY_SECONDS)
            when = "its successor is there" if number in self._spares else f"restart in {delay:.1f} s"
            logger.error("worker process %d ended %s, %s", number, how, when, extra={"worker": number})
            if number not in self._spares:
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            self.restarts += 1
            try:
                successor = await self._start_one(number)
            except (WorkerFailed, OSError) as error:
                how = f"before it was ready ({error})"
                continue
            # From here on the successor has a watcher of its own.
            await self._configure(number, successor)
            return

    async def _configure(self, number: int, child: Child) -> None:
        """Give a restarted worker process the active configuration; one that does not take it is killed, to restart."""
        async with self._applying:
            spec = self._spec
            if spec is not None and child.taken is not spec and child.alive:
                self._turn += 1
                try:
                    await child.prepare(self._turn, spec)
                    await child.commit(self._turn, spec)
                except WorkerGone:
                    return
                except WorkerFailed as error:
                    logger.error("the active configuration does not load: %s", error, extra={"worker": number})
                    child.kill()
                    return
                await self._listen(number, child)
        self._changed()
