"""What a worker process that answers no more was doing: a file in memory that it shares with its supervisor.

Nothing in the worker process can tell while C code holds the interpreter, so two things are there beforehand: the key
of the chain that ran last, which costs one small copy per phase, and a signal that makes Python's own C code
(`faulthandler`) write the stack, without the interpreter's leave.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import re
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path

from policy_engine.worker.chains.loop_watch import RUNNING
from policy_engine.worker.chains.mark import read_mark

STACK_SIGNAL = signal.SIGUSR1
_STACK_BEGINS = mmap.PAGESIZE
_MOST_STACK = 64 << 10
_KEPT: list[int] = []
"""The descriptor of the record that this process keeps, if it does."""
_FRAME = re.compile(r'^  File "(?P<file>[^"]*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class LastSeen:
    """What a record holds: the route key of the chain that ran last, and the stacks, the current thread's first."""

    route_key: str
    stack: str

    def place(self, policies: str) -> str:
        """Return where the process is, as `file, line n, in function`: in a policy below `policies` if one is on it.

        Empty when the process wrote no stack, as one that is stopped cannot.
        """
        frames = list(_FRAME.finditer(self.stack))
        own = [one for one in frames if policies and one["file"].startswith(policies.rstrip("/") + "/")]
        for frame in own or frames:
            return f"{frame['file']}, line {frame['line']}, in {frame['function']}"
        return ""


class FlightRecord:
    """The supervisor's end; `descriptor` is inherited by the worker process."""

    def __init__(self) -> None:
        self.descriptor = _memory_file()
        os.truncate(self.descriptor, _STACK_BEGINS)

    def read(self) -> LastSeen:
        """Return what it holds now."""
        page = os.pread(self.descriptor, _STACK_BEGINS, 0)
        begins = max(_STACK_BEGINS, os.fstat(self.descriptor).st_size - _MOST_STACK)
        text = os.pread(self.descriptor, _MOST_STACK, begins).decode(errors="replace")
        return LastSeen(read_mark(page), _current_first(text))

    def close(self) -> None:
        """Give the memory back; the worker process keeps its own end."""
        os.close(self.descriptor)


def keep_record(descriptor: int) -> None:
    """Let this process, a worker process, note its chains in the file, and its stacks when `STACK_SIGNAL` comes."""
    RUNNING.mark, RUNNING.page = b"", mmap.mmap(descriptor, _STACK_BEGINS)
    os.lseek(descriptor, _STACK_BEGINS, os.SEEK_SET)
    _KEPT.append(descriptor)
    faulthandler.register(STACK_SIGNAL, file=descriptor, all_threads=True)


def end_unless_told_again(seconds: float) -> None:
    """Have this process, if it keeps a record, end after `seconds` unless this is called again before.

    For one that hangs with nobody left to end it. The thread that does it is C code, which needs no interpreter.
    """
    if _KEPT:
        faulthandler.dump_traceback_later(seconds, exit=True, file=_KEPT[0])


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("policy-engine-worker")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _current_first(text: str) -> str:
    """Return the stacks with that of the thread that was interrupted, which is the loop's, before the others."""
    _, mark, current = text.rpartition("Current thread ")
    return mark + current + text.removesuffix(mark + current) if mark else text


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped (SIGSTOP, a debugger), as far as this system tells (`proc(5)`)."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[:1] in ([b"T"], [b"t"])
    return False
