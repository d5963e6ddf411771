"""The supervisor's view of the process that worker processes are forked from, and of each process forked from it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence

from policy_engine.processes.fork_server import ENDED, FAILED, FORKED, MESSAGE, READY, REQUEST, Run, fork_here
from policy_engine.processes.stray_signals import stray_signals_wait

logger = logging.getLogger("policy_engine.supervisor")

FORK_SECONDS = 30.0
"""For one process; it takes milliseconds."""

UNKNOWN_STATUS = 255
"""Of a process whose end nobody could see, as `multiprocessing` has it."""

_LOOK_SECONDS = 0.1


class ForkServerLost(ConnectionError):
    """The process to fork from ended, or could not be started."""


class ForkedProcess:
    """A process that another one forked for this one; like `asyncio.subprocess.Process`, as far as it is needed."""

    def __init__(self, pid: int, handle: int | None) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._handle = handle
        self._over = asyncio.Event()

    async def wait(self) -> int:
        """Return how it ended, once it has: its exit status, or minus the number of a signal."""
        while self.returncode is None:
            await self._over.wait()
        return self.returncode

    def kill(self) -> None:
        """End it at once; raises ProcessLookupError when it has ended."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send it a signal; raises ProcessLookupError when it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        if self._handle is None:
            os.kill(self.pid, number)
        else:  # the number of a process that was waited for may be another's by now
            signal.pidfd_send_signal(self._handle, number)

    def ended(self, returncode: int) -> None:
        """Take note of its end."""
        if self.returncode is None:
            self.returncode = returncode
            self._over.set()
            if self._handle is not None:
                os.close(self._handle)

    async def see_to_its_end(self) -> None:
        """Notice its end with nobody left to tell of it."""
        while self._is_there():  # noqa: ASYNC110 - another process, of which nobody tells
            await asyncio.sleep(_LOOK_SECONDS)

    def _is_there(self) -> bool:
        with contextlib.suppress(ChildProcessError):
            # It is this process's child by now if this is the first one of a container.
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.ended(os.waitstatus_to_exitcode(status))
        if self.returncode is None:
            try:
                self.send_signal(0)
            except ProcessLookupError:
                self.ended(UNKNOWN_STATUS)
        return self.returncode is None


class ForkServer:
    """A process to fork from. `lost` is whether it is there no more; what was forked from it lives on."""

    def __init__(self, control: socket.socket, process: ForkedProcess | asyncio.subprocess.Process) -> None:
        self.lost = False
        self._process = process
        self._control = control
        self._children: dict[int, ForkedProcess] = {}
        self._asked: deque[asyncio.Future[ForkedProcess]] = deque()
        self._ready: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def forked(cls, run: Run, closing: Sequence[int] = ()) -> ForkServer:
        """Return one that shares what this process has imported, which may have one thread and no event loop.

        The descriptors `closing` are none of its own.
        """
        # It begins with signals held back, so that none ends it before it ignores them.
        with stray_signals_wait():
            control, pid = fork_here(run, closing)
        return cls(control, ForkedProcess(pid, None))

    @classmethod
    async def started(cls, policies: str, strict: bool, level: str, form: str) -> ForkServer:
        """Return one that has imported everything anew, policies as they are on disk; raises ForkServerLost."""
        ours, theirs = socket.socketpair()
        with theirs, stray_signals_wait():
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the working directory adds no code
                "-m",
                "policy_engine.processes.fork_server",
                *(str(theirs.fileno()), policies, "strict" if strict else "report", level, form),
                pass_fds=(theirs.fileno(),),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
            )
        server = cls(ours, process)
        await server.ready()
        return server

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ready(self) -> None:
        """Return when it takes requests; raises ForkServerLost."""
        if self._ready is None:
            loop = asyncio.get_running_loop()
            self._ready = loop.create_future()
            self._control.setblocking(False)
            loop.add_reader(self._control, self._hear)
        await asyncio.shield(self._ready)

    async def fork(self, descriptors: Sequence[int]) -> ForkedProcess:
        """Have it fork a process that is given these descriptors; raises OSError, ForkServerLost when it is gone."""
        await self.ready()
        if self.lost:
            raise ForkServerLost("the process that worker processes are forked from has ended")
        answer: asyncio.Future[ForkedProcess] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        try:
            socket.send_fds(self._control, [REQUEST], descriptors)
            return await asyncio.wait_for(asyncio.shield(answer), FORK_SECONDS)
        except TimeoutError:
            self.close()
            raise ForkServerLost(f"no process was forked within {FORK_SECONDS:g} s") from None

    def close(self) -> None:
        """Have it end; what was forked from it lives on."""
        if not self.lost:
            self._lose()

    def _hear(self) -> None:
        try:
            message, handles, _, _ = socket.recv_fds(self._control, MESSAGE.size, 1)
        except BlockingIOError:
            return
        except OSError:
            message, handles = b"", []
        if len(message) < MESSAGE.size:
            self._lose()
            return
        kind, pid, number = MESSAGE.unpack(message)
        if kind == READY and self._ready is not None:
            if not self._ready.done():
                self._ready.set_result(None)
        elif kind == FORKED:
            child = self._children[pid] = ForkedProcess(pid, handles[0] if handles else None)
            self._answer(child)
        elif kind == FAILED:
            self._answer(OSError(number, f"cannot fork a process: {os.strerror(number)}"))
        elif kind == ENDED and pid in self._children:  # it is told of processes that those have left behind, too
            self._children.pop(pid).ended(os.waitstatus_to_exitcode(number))

    def _answer(self, answer: ForkedProcess | OSError) -> None:
        future = self._asked.popleft()
        if isinstance(answer, OSError):
            if not future.done():
                future.set_exception(answer)
        elif future.done():  # nobody waits for it any more
            answer.kill()
        else:
            future.set_result(answer)

    def _lose(self) -> None:
        self.lost = True
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        for waiting in (self._ready, *self._asked):
            if waiting is not None and not waiting.done():
                waiting.set_exception(ForkServerLost("the process that worker processes are forked from has ended"))
        self._asked.clear()
        # The one that `asyncio` started, it looks after itself.
        own = [self._process] if isinstance(self._process, ForkedProcess) else []
        for process in (*own, *self._children.values()):
            task = asyncio.ensure_future(process.see_to_its_end())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._children = {}


class ForkServers:
    """The server to fork from now: the one to `use`, else one that is started with options as `started` has them.

    One that is gone is followed by another.
    """

    def __init__(self, policies: str, strict: bool, level: str, form: str) -> None:
        self._options = (policies, strict, level, form)
        self._server: ForkServer | None = None
        self._choosing = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The process id of the server, None while there is none."""
        return self._server.pid if self._server is not None and not self._server.lost else None

    def use(self, server: ForkServer) -> None:
        """Fork from this one from now on; the one before ends, and what was forked from it lives on."""
        before, self._server = self._server, server
        if before is not None:
            before.close()

    async def current(self) -> ForkServer:
        """Return the server; raises ForkServerLost when it must be started and cannot."""
        async with self._choosing:
            if self._server is None or self._server.lost:
                if self._server is not None:
                    logger.error("the process that worker processes are forked from has ended, starting another")
                self._server = await self.another()
            return self._server

    async def another(self) -> ForkServer:
        """Start a server, which has imported policies as they are on disk now; raises ForkServerLost."""
        return await ForkServer.started(*self._options)

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.close()
