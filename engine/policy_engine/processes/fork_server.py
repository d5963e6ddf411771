"""The process that worker processes are forked from, so that they share the memory of what it has imported.

It runs no event loop, opens no connection and has one thread: what a fork carries over is memory and descriptors, and
threads of the parent are gone in the child, with the locks they held. Each worker process begins its own loop, threads
and connections. The supervisor is told of each end; when that one ends, so does this.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from policy_engine.processes import serving
from policy_engine.processes.free_memory import trim
from policy_engine.processes.stray_signals import ignore_stray_signals, let_signals_in
from policy_engine.telemetry.logs import configure_logging
from policy_engine.worker.offload.parent import adopt_orphans, signal_at_its_end
from policy_engine.worker.policies.integrity import verify
from policy_engine.worker.policies.loader import load_policies
from policy_engine.worker.policies.registry import Registry

MESSAGE = struct.Struct("!Bii")
"""What is told: one of the kinds below, a process id, and a number."""

READY, FORKED, ENDED, FAILED = range(4)
"""Ready for requests; forked, and the process's own descriptor comes with it (`pidfd_open(2)`) where there is such a
thing; ended, with this wait status; not forked, for this errno."""

REQUEST = b"f"
"""Asks for a process; the descriptors that it is given come with it."""

MOST_DESCRIPTORS = 253
"""What one message may carry (`unix(7)`, SCM_RIGHTS)."""

Run = Callable[[Sequence[int]], int]
"""What a forked process does with the descriptors it is given; returns its exit status."""


def worker_process(registry: Registry) -> Run:
    """Return what makes a forked process a worker process with the policies of `registry`."""

    def run(descriptors: Sequence[int]) -> int:
        channel, record, passing, *inherited = descriptors
        return serving.main(channel, record, passing, tuple(inherited), registry)

    return run


def fork_here(run: Run, closing: Sequence[int] = ()) -> tuple[socket.socket, int]:
    """Fork a server from this process as it is, and return the other end of its socket, and its process id.

    It does not keep the descriptors `closing` open: a socket that it held would go on listening after its end.
    Raises RuntimeError where there is more than one thread: what the others hold would stay held in the new process.
    """
    if _threads() > 1:
        raise RuntimeError("a process with threads is not one to fork from")
    ours, theirs = socket.socketpair()
    # A collection that looked at what both share would copy it.
    gc.collect()
    gc.freeze()
    trim()
    pid = os.fork()
    if pid == 0:
        ours.close()
        for one in closing:
            os.close(one)
        _end_with(lambda: serve(theirs, run))
    theirs.close()
    return ours, pid


def serve(control: socket.socket, run: Run) -> int:
    """Fork a process that does `run` for each request, until nobody can ask any more."""
    signal_at_its_end(signal.SIGKILL)
    adopt_orphans()
    ignore_stray_signals()
    let_signals_in()
    woken, wake = socket.socketpair()
    for one in (woken, wake):
        one.setblocking(False)
    signal.signal(signal.SIGCHLD, _nothing)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    # Nobody may be left to be told, or to ask.
    with contextlib.suppress(ConnectionError):
        control.sendall(MESSAGE.pack(READY, os.getpid(), 0))
        while True:
            readable, _, _ = select.select([control, woken], [], [])
            if woken in readable:
                woken.recv(4096)
                _tell_of_ends(control)
            if control in readable:
                asked, descriptors, _, _ = socket.recv_fds(control, len(REQUEST), MOST_DESCRIPTORS)
                if not asked:
                    break
                _fork(control, descriptors, run, (control, woken, wake))
    return 0


def _fork(control: socket.socket, descriptors: Sequence[int], run: Run, own: Sequence[socket.socket]) -> None:
    try:
        pid = os.fork()
    except OSError as error:
        control.sendall(MESSAGE.pack(FAILED, 0, error.errno or 0))
    else:
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for one in own:
                one.close()
            _end_with(lambda: run(descriptors))
        handle = [os.pidfd_open(pid)] if hasattr(os, "pidfd_open") else []
        socket.send_fds(control, [MESSAGE.pack(FORKED, pid, 0)], handle)
        for one_of_it in handle:
            os.close(one_of_it)
    for descriptor in descriptors:
        os.close(descriptor)


def _tell_of_ends(control: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            control.sendall(MESSAGE.pack(ENDED, pid, status))


def _end_with(run: Callable[[], int]) -> NoReturn:
    """Do `run`, and end this forked process: nothing below it on the stack is its own to go on with."""
    status = 1
    try:
        status = run()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def _threads() -> int:
    """Return how many threads this process has, those of C code included where the system tells (Linux)."""
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:
        return 1


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Let a signal end a `select`."""


def main(control: int, policies: str, strict: bool, level: str, form: str) -> int:
    """Run a server that has loaded the policies itself, whose socket is this inherited descriptor."""
    configure_logging(level, form)
    path = Path(policies) if policies else None
    # Its own code runs by now, and the supervisor has looked at that.
    registry = load_policies(path, strict=strict, engine=False, on_demand=verify(path, engine=False))
    gc.collect()
    gc.freeze()
    return serve(socket.socket(fileno=control), worker_process(registry))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "strict", sys.argv[4], sys.argv[5]))
