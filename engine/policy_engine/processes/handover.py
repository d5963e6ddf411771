"""The hand-over from a running engine to another on the same machine: `policy-engine upgrade` (docs/operator.md).

The running one listens on a private Unix socket. Another connects, is given every socket that is listened on, starts
on them, and says that it is ready; then, and only then, the first drains and ends. Whatever else happens, the first
goes on as if nobody had come: until that word, it has not changed anything.

The sockets themselves are passed on (`SCM_RIGHTS`), as haproxy and Envoy do it, rather than bound a second time with
SO_REUSEPORT: a connection that waits in a backlog is then accepted by whichever engine is there, where that of a
second socket dies with it; and Unix sockets know no such option.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from policy_engine.processes.channel import Channel, Message
from policy_engine.processes.listening import Given, Listening
from policy_engine.processes.passing import MOST_DESCRIPTORS, NotPassed, receive_descriptors, send_descriptors
from policy_engine.processes.service_manager import ServiceManager
from policy_engine.transport.listen import UNIX_PREFIX, bind

PROTOCOL = 1
READY_SECONDS = 60.0
HELLO_SECONDS = 5.0
ANSWER_SECONDS = 15.0
MOST_CALLERS = 8
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))
_OUTPUT = (1, 2)

logger = logging.getLogger("policy_engine.supervisor")


class HandOverFailed(Exception):
    """The engine that runs did not hand over, or there is none; the message says why."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """Who serves from now on, and which addresses (as this engine's settings write them)."""

    pid: int
    addresses: frozenset[str]


class HandOver:
    """The end of the engine that runs: waits at `path` for one that takes over.

    `sockets` returns all that are listened on, as copies that end with its argument where they are none of its own.
    `handed_over` is called once another engine serves in its place. `not_now` says why there is nothing to hand over
    yet, empty when there is.
    """

    def __init__(
        self,
        path: Path,
        sockets: Callable[[ExitStack], Awaitable[list[Listening]]],
        handed_over: Callable[[HandedOver], object],
        manager: ServiceManager,
        not_now: Callable[[], str] = str,
    ) -> None:
        self._path = path
        self._sockets = sockets
        self._handed_over = handed_over
        self._manager = manager
        self._not_now = not_now
        self._sock: socket.socket | None = None
        self._callers: set[asyncio.Task[None]] = set()
        self._taking: tuple[Channel, int] | None = None

    @property
    def _address(self) -> str:
        return f"{UNIX_PREFIX}{self._path}?mode=0600"

    def start(self, given: Given) -> None:
        """Wait from now on, at a socket that another engine waited at or at a new one; raises OSError."""
        self._sock = given.take(self._address) or bind(self._address)
        asyncio.get_running_loop().add_reader(self._sock, self._accept, self._sock)

    async def stop(self, why: str) -> None:
        """Hand over to nobody any more, and tell whoever is about to take over."""
        if self._taking is not None:
            channel, _ = self._taking
            with contextlib.suppress(ConnectionError):
                await channel.send({"refused": why})
        for task in tuple(self._callers):
            task.cancel()
        if self._sock is not None:
            self._leave()
            self._path.unlink(missing_ok=True)

    def _leave(self) -> None:
        """Wait no longer; who calls from now on waits for the engine that took over."""
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except OSError:  # gone again, or no descriptor is left; those who wait are accepted later
            return
        if len(self._callers) >= MOST_CALLERS:
            sock.close()
            return
        task = asyncio.ensure_future(self._serve(sock))
        self._callers.add(task)
        task.add_done_callback(self._callers.discard)

    async def _serve(self, sock: socket.socket) -> None:
        pid, refused = _caller(sock)
        if refused:
            logger.warning("hand-over refused: %s", refused, extra={"event": "hand_over_refused"})
            sock.close()
            return
        channel = await Channel.over(sock)
        try:
            await self._talk(channel, sock, pid)
        except (OSError, TimeoutError, NotPassed) as error:
            logger.warning("hand-over: %s", str(error) or type(error).__name__, extra={"event": "hand_over_failed"})
        finally:
            channel.close()

    async def _talk(self, channel: Channel, sock: socket.socket, pid: int) -> None:
        hello = await asyncio.wait_for(channel.receive(), HELLO_SECONDS)
        if hello is None:  # somebody looked whether this socket is answered
            return
        refused = self._refusal(hello, pid)
        if refused:
            logger.warning("hand-over refused: %s", refused, extra={"event": "hand_over_refused"})
            await channel.send({"refused": refused})
            return
        self._taking = channel, pid
        who = f"engine {hello.get('engine', '?')} (pid {pid})"
        logger.info("hand-over: %s gets the sockets", who, extra={"event": "hand_over_begun"})
        try:
            await self._give(sock)
            answer = await channel.receive()
            if answer is None or "ready" not in answer:
                reason = "it ended" if answer is None else str(answer.get("failed", "it said nothing that is known"))
                logger.error(
                    "hand-over: %s does not take over, this engine goes on: %s",
                    who,
                    reason,
                    extra={"event": "hand_over_failed"},
                )
                return
            if _hung_up(sock):
                logger.error("hand-over: %s gave up waiting, this engine goes on", who)
                return
            await channel.send({"yours": True})
            self._leave()
        finally:
            self._taking = None
        logger.info("hand-over: %s serves from now on", who, extra={"event": "handed_over"})
        if pid:
            self._manager.tell(f"MAINPID={pid}", f"STATUS=handed over to process {pid}")
        self._handed_over(HandedOver(pid, frozenset(map(str, answer["ready"]))))

    async def _give(self, sock: socket.socket) -> None:
        with ExitStack() as until:
            found = await self._sockets(until)
            if self._sock is not None:
                found.append(Listening(self._address, self._sock))
            while True:
                some, found = found[:MOST_DESCRIPTORS], found[MOST_DESCRIPTORS:]
                message = {"addresses": [one.address for one in some], "more": bool(found)}
                send_descriptors(sock, message, [one.sock.fileno() for one in some])
                if not found:
                    break
        output = [one for one in _OUTPUT if _is_open(one)]
        send_descriptors(sock, {"output": output, "manager": self._manager.address, "pid": os.getpid()}, output)

    def _refusal(self, hello: Message, pid: int) -> str:
        """Return why whoever says `hello` gets nothing; empty when it does."""
        if hello.get("protocol") != PROTOCOL:
            return (
                f"that engine hands over by protocol {hello.get('protocol')!r} and the one that runs by {PROTOCOL}: "
                "restart instead"
            )
        if self._taking is not None:
            return f"another upgrade is under way, by process {self._taking[1]}"
        if os.getpid() == 1 and pid:
            return (
                "the engine that runs is process 1 of its container, which would end with it: start the new one in "
                "another container, with `policy-engine run --take-over`"
            )
        if self._manager.started and not self._manager.address:
            return "systemd would end the service with this process: it needs Type=notify (deploy/systemd)"
        if self._manager.address and pid and not _is_part_of_ours(pid):
            return (
                "the engine that runs is a service, and the new one would not be part of it: use "
                "`systemctl reload` with ExecReload= as in deploy/systemd"
            )
        return self._not_now()


class TakeOver:
    """The end of the engine that takes over. `given` are the sockets of the one that runs, which is process `pid`.

    It has `seconds` to become ready, and then asks whether it is still `wanted`; `done` is called when it serves.
    `manager` is what the other one tells how it is.
    """

    def __init__(
        self, sock: socket.socket, given: Given, pid: int, manager: ServiceManager, output: dict[int, int]
    ) -> None:
        self._sock = sock
        self.given = given
        self.pid = pid
        self.manager = manager
        self.seconds = READY_SECONDS
        self.wanted: Callable[[], bool] = lambda: True
        self.done: Callable[[], object] = lambda: None
        self._output = output

    @property
    def descriptors(self) -> list[int]:
        """All that came from the engine that runs, and the way to it."""
        return [self._sock.fileno(), *self.given.descriptors, *self._output.values()]

    def adopt_output(self) -> None:
        """Write from now on where the engine that runs writes its log."""
        for number, descriptor in self._output.items():
            os.dup2(descriptor, number)
        self.forget_output()

    def forget_output(self) -> None:
        """Go on writing where this process does."""
        for descriptor in self._output.values():
            os.close(descriptor)
        self._output.clear()

    async def finish(self, ready: asyncio.Future[None], why_not: Callable[[], str]) -> None:
        """Return once this engine is `ready` and the other one has agreed to leave, or is gone.

        Raises HandOverFailed when it is not ready in time, for the reason that `why_not` returns, or when the other
        one goes on; what `ready` raises is told to that one.
        """
        channel = await Channel.over(self._sock)
        answer = asyncio.ensure_future(channel.receive())
        try:
            await self._until_ready(ready, answer, why_not)
            if not answer.done():
                if not self.wanted():
                    raise HandOverFailed("the command that started this engine was interrupted")
                await channel.send({"ready": sorted(self.given.taken)})
                self._consider(await asyncio.wait_for(answer, ANSWER_SECONDS))
        except HandOverFailed as failed:
            with contextlib.suppress(ConnectionError):
                await channel.send({"failed": str(failed)})
            raise
        except ConnectionError:
            self._consider(None)
        except TimeoutError:
            raise HandOverFailed(f"process {self.pid} did not answer within {ANSWER_SECONDS:g} s") from None
        finally:
            answer.cancel()
            channel.close()

    async def _until_ready(
        self, ready: asyncio.Future[None], answer: asyncio.Future[Message | None], why_not: Callable[[], str]
    ) -> None:
        try:
            async with asyncio.timeout(self.seconds):
                await asyncio.wait((ready, answer), return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    self._consider(answer.result())
                await asyncio.shield(ready)
        except TimeoutError:
            raise HandOverFailed(f"not ready within {self.seconds:g} s: {why_not()}") from None

    def _consider(self, answer: Message | None) -> None:
        """Raise HandOverFailed for an answer by which the other one goes on."""
        if answer is None:
            logger.warning("hand-over: process %d ended before it handed over; this engine serves alone", self.pid)
        elif "yours" not in answer:
            raise HandOverFailed(str(answer.get("refused", "the engine that runs said nothing that is known")))


def take_over(path: Path, engine: str) -> TakeOver:
    """Get the sockets of the engine that waits at `path`; raises HandOverFailed. `engine` is this one's version."""
    with ExitStack() as undo:
        sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.settimeout(ANSWER_SECONDS)
        try:
            sock.connect(str(path))
            _, refused = _caller(sock)
            if refused:
                raise HandOverFailed(f"{path}: {refused}")
            send_descriptors(sock, {"protocol": PROTOCOL, "engine": engine}, ())
            found, last, output = _receive(sock, undo)
            pid, manager = int(last["pid"]), ServiceManager(str(last["manager"]))
        except (FileNotFoundError, ConnectionRefusedError):
            raise HandOverFailed(
                f"no engine that hands over waits at {path} (upgrade.socket); start one with `policy-engine run`"
            ) from None
        except TimeoutError:
            raise HandOverFailed(f"the engine at {path} did not answer within {ANSWER_SECONDS:g} s") from None
        except (OSError, NotPassed) as error:
            raise HandOverFailed(f"the engine at {path} did not hand over: {error}") from None
        except (KeyError, TypeError, ValueError):
            raise HandOverFailed(f"the engine at {path} did not hand over: it said nothing that is known") from None
        undo.pop_all()
    return TakeOver(sock, Given(found), pid, manager, output)


def _receive(sock: socket.socket, undo: ExitStack) -> tuple[list[Listening], Message, dict[int, int]]:
    """Return the sockets, and the last message with the descriptors that came with it by their numbers there."""
    found: list[Listening] = []
    while True:
        message, descriptors = receive_descriptors(sock)
        if "refused" in message:
            raise HandOverFailed(str(message["refused"]))
        with ExitStack() as given:
            for one in descriptors:
                given.callback(os.close, one)
            names = message["output" if "output" in message else "addresses"]
            if len(names) != len(descriptors):
                raise NotPassed(f"{len(descriptors)} descriptors came and {len(names)} were named")
            if "output" in message:
                for one in descriptors:
                    undo.callback(os.close, one)
                given.pop_all()
                return found, message, dict(zip(map(int, names), descriptors, strict=True))
            for address, one in zip(names, descriptors, strict=True):
                found.append(Listening(str(address), undo.enter_context(socket.socket(fileno=os.dup(one)))))


def _caller(sock: socket.socket) -> tuple[int, str]:
    """Return the process at the other end, 0 when it is not of our PID namespace, and why it is none to talk to."""
    if not hasattr(socket, "SO_PEERCRED"):  # the mode of the socket's file has to do
        return 0, ""
    pid, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if user not in (os.geteuid(), 0):
        return pid, f"process {pid} at the other end is of user {user}, not of this one's ({os.geteuid()}) nor of root"
    return pid, ""


def _hung_up(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError as error:
        return error.errno != errno.EBADF
    return True


def _is_part_of_ours(pid: int) -> bool:
    """Whether the control group of `pid` is ours or below it (proc(5)); also when that cannot be seen."""
    try:
        theirs, ours = (Path(f"/proc/{one}/cgroup").read_text().splitlines() for one in (pid, os.getpid()))
    except OSError:
        return True
    return all(one == own or one.startswith(f"{own.rstrip('/')}/") for one, own in zip(theirs, ours, strict=False))
