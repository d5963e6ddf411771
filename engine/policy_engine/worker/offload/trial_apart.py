"""Policies constructed on trial in a process apart, which can be killed: C code that hangs in a constructor would
otherwise hold whoever checks a configuration, and the worker processes that are then given it.

A separate module because of what it costs: a process for each load that has something to try (0.3 s). Tests and tools
that trust what they try do it in place (`trial`).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policy_engine.limits import CONSTRUCTION_SECONDS
from policy_engine.worker.offload import frames
from policy_engine.worker.offload.job import Recipe
from policy_engine.worker.offload.trial_process import DONE, IMPORTED, MADE
from policy_engine.worker.policies.closing import CLOSE_SECONDS
from policy_engine.worker.policies.construction import Overrun
from policy_engine.worker.policies.trial import Refusal, Trial, construct_on_trial, try_here

START_SECONDS = 60.0
"""For the start of the process and the import of a policy, which this process has imported before."""

GRACE_SECONDS = 1.0
"""After the times that the trial itself keeps; then the process is killed."""

_QUIET = {"PYTHONBREAKPOINT": "0"}
"""Nobody is there to answer a debugger; one in a worker process stops at the same place."""

_FRAME = re.compile(r'^  File "([^"]*)", line (\d+) in ', re.MULTILINE)
_MOST_STACK = 64 << 10


def construct_apart(trials: Sequence[Trial], seconds: float = CONSTRUCTION_SECONDS) -> list[Refusal | None]:
    """Do as `construct_on_trial`, for policies that lie in a directory in a process apart."""
    with _Apart() as apart:
        return construct_on_trial(trials, seconds, apart.try_one)


class _Apart:
    """The process while there is one; after a trial that it did not survive, the next one begins with another."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._stacks = -1

    def __enter__(self) -> _Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def try_one(self, trial: Trial, seconds: float) -> Refusal | None:
        """Return why the policy is refused; raises Overrun."""
        source = trial.definition.source
        if not isinstance(source, Path):
            return try_here(trial, seconds)
        definition = trial.definition
        label = f"{definition.name}_{definition.version}"
        recipe = Recipe.of(str(source), definition.entrypoint, label, trial.parameters)
        limits = {IMPORTED: (seconds, "did not return"), MADE: (CLOSE_SECONDS, "returned, but close did not")}
        limit, what = START_SECONDS, "did not begin"
        try:
            sock = self._running()
            sock.settimeout(START_SECONDS)
            frames.send(sock, frames.encode((recipe, seconds)))
            while True:
                said, *more = frames.decode(frames.receive(sock))
                if said == DONE:
                    break
                limit, what = limits[said]
                sock.settimeout(limit + GRACE_SECONDS)
        except TimeoutError:
            place = self._place(source)
            self._end()
            raise Overrun(f"{what} within {limit:g} s and could not be broken off{place}") from None
        except (EOFError, ConnectionError):
            return Refusal(f"ended the process in which it was tried ({self._end()})", expected=False)
        refusal, late = more
        if late:
            raise Overrun(late)
        found: Refusal | None = refusal
        return found

    def _running(self) -> socket.socket:
        if self._socket is None:
            mine, theirs = socket.socketpair()
            self._stacks, written = os.pipe()
            os.set_blocking(self._stacks, False)
            passed = (theirs.fileno(), written)
            try:
                self._process = subprocess.Popen(  # noqa: S603 - this very engine
                    [
                        sys.executable,
                        "-P",  # the working directory adds no code
                        "-m",
                        "policy_engine.worker.offload.trial_process",
                        *map(str, (*passed, os.getpid())),
                    ],
                    stdin=subprocess.DEVNULL,
                    # What the policy says is said again by every worker process.
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=passed,
                    start_new_session=True,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry), **_QUIET},
                )
            finally:
                theirs.close()
                os.close(written)
            self._socket = mine
        return self._socket

    def _place(self, directory: Path) -> str:
        """Return where the policy hangs, its own code before all other, as far as the process has written it."""
        text = b""
        with contextlib.suppress(BlockingIOError):
            text = os.read(self._stacks, _MOST_STACK)
        found = _FRAME.findall(text.decode(errors="replace"))
        own = [one for one in found if Path(one[0]).is_relative_to(directory)]
        return f"; it is at {(own or found)[0][0]}:{(own or found)[0][1]}" if found else ""

    def _end(self) -> str:
        """End the process, and say how it ended if it did by itself."""
        process, sock = self._process, self._socket
        self._process = self._socket = None
        if process is None or sock is None:
            return ""
        sock.close()
        os.close(self._stacks)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
        how = _how(process.returncode)
        process.kill()
        process.wait()
        return how


def _how(code: Any) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"by {signal.Signals(-code).name}"
    return f"with exit status {code}"
