"""`policy-engine upgrade`: starts a new engine that takes over from the one that runs, and says how that went."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

GRACE_SECONDS = 30.0
"""Beyond the time that the new engine has, for it to start and to give up by itself."""
_MOST_OUTCOME = 1 << 16


def upgrade(arguments: Sequence[str], seconds: float) -> tuple[int, str]:
    """Start `policy-engine run --take-over` with `arguments`; returns the exit status and a line about what happened.

    It runs on in the background, in a session of its own, once it serves. When this command is interrupted before, or
    the new engine is not ready within `seconds`, it gives up.
    """
    mine, theirs = socket.socketpair()
    with mine, _interrupted_by_sigterm():
        with theirs:
            process = _start(arguments, theirs.fileno())
        outcome = _outcome(mine, seconds + GRACE_SECONDS)
        if outcome is None:
            # Longer than it would take it to give up: it can do nothing any more.
            process.kill()
    return _told(outcome, process)


class Outcome:
    """The new engine's end: the command that started it, if one did and is still there."""

    def __init__(self, descriptor: int | None) -> None:
        self._sock = None if descriptor is None else socket.socket(fileno=descriptor)
        if self._sock is not None:
            self._sock.setblocking(False)
            self._sock.set_inheritable(False)

    @property
    def given(self) -> bool:
        """Whether a command started this engine."""
        return self._sock is not None

    @property
    def descriptors(self) -> list[int]:
        """What is open for it."""
        return [] if self._sock is None else [self._sock.fileno()]

    @property
    def awaited(self) -> bool:
        """Whether the command still waits; so when there is none."""
        if self._sock is None:
            return True
        try:
            return self._sock.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def tell(self, outcome: dict[str, Any]) -> None:
        """Tell how it went, once; a command that is gone need not know."""
        if self._sock is not None:
            with self._sock, contextlib.suppress(OSError):
                self._sock.sendall(json.dumps(outcome).encode() + b"\n")
            self._sock = None


def _start(arguments: Sequence[str], descriptor: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "policy_engine", "run", "--take-over", "--outcome", str(descriptor)]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.Popen(  # noqa: S603 - this interpreter, and what the operator wrote
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": path},
    )


def _outcome(sock: socket.socket, seconds: float) -> dict[str, Any] | None:
    """Return what the new engine tells; an empty one when it ends without a word, None when it does neither in time."""
    data = b""
    deadline = time.monotonic() + seconds
    while not data.endswith(b"\n") and len(data) < _MOST_OUTCOME:
        sock.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            piece = sock.recv(_MOST_OUTCOME)
        except TimeoutError:
            return None
        except ConnectionError:
            break
        if not piece:
            break
        data += piece
    with contextlib.suppress(ValueError):
        outcome = json.loads(data)
        if isinstance(outcome, dict):
            return outcome
    return {}


def _told(outcome: dict[str, Any] | None, process: subprocess.Popen[bytes]) -> tuple[int, str]:
    goes_on = "the engine that runs goes on as before"
    if outcome is None:
        return 1, f"the new engine (process {process.pid}) did not say how it is, and was ended; {goes_on}"
    if "serves" in outcome:
        before = outcome["before"]
        return 0, f"process {outcome['serves']} serves; process {before} finishes what it is working on"
    if "failed" in outcome:
        return 1, f"the new engine does not take over; {goes_on}: {outcome['failed']}"
    status = process.wait()
    how = f"with exit status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
    return 2 if status == 2 else 1, f"the new engine ended {how} before it was ready; {goes_on}"


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Have SIGTERM do what SIGINT does, so that a new engine is not left on its way."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
