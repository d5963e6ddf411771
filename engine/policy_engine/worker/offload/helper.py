"""A helper process: makes the policies it is told of, runs what it is sent, one call at a time, and answers.

It ends with its worker process, however that ends, and at the latest when a call is over its time: the kernel's timer
kills it even inside C code that nothing else can break off.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pickle
import resource
import signal
import socket
import sys
import traceback
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from policy_engine.sdk import Policy
from policy_engine.worker.offload import frames
from policy_engine.worker.offload.job import Recipe, Record, Report
from policy_engine.worker.offload.parent import end_with
from policy_engine.worker.policies.importing import import_policy_module

READY = b"ready"
"""What a helper says first."""

MOST_POLICIES = 64
"""Policies that a helper keeps ready; the one that was not used for longest goes first."""

_NICE = 5
_STATM = Path("/proc/self/statm")
_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class Collected(logging.Handler):
    """Keeps what policies log during a call, for the worker process to log in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Record] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record as plain data; what cannot be sent is left out."""
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD_FIELDS}
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        kept = Record(record.name, record.levelno, text, extra)
        try:
            pickle.dumps(kept)
        except Exception:
            kept = Record(record.name, record.levelno, text, {})
        self.records.append(kept)

    def taken(self) -> tuple[Record, ...]:
        """Return what was logged since the last call."""
        records, self.records = tuple(self.records), []
        return records


class Policies:
    """The policies of this helper, made when they are first called."""

    def __init__(self) -> None:
        self._recipes: dict[int, Recipe] = {}
        self._made: OrderedDict[int, Policy] = OrderedDict()

    def answer(self, key: bytes, parts: list[bytes]) -> Any:
        """Make the policy that is told of (no key), so that its first call need not; or return what a call returns."""
        if key:
            return self._call(int(key), parts)
        recipe: Recipe = pickle.loads(parts[0])  # noqa: S301 - from our own worker process
        self._recipes[recipe.key] = recipe
        self.get(recipe.key)
        return None

    def get(self, key: int) -> Policy:
        """Return the policy of `key`, made again when it was dropped."""
        policy = self._made.pop(key, None)
        if policy is None:
            recipe = self._recipes[key]
            module = import_policy_module(Path(recipe.directory), recipe.module, recipe.label)
            policy_class: type[Policy] = getattr(module, recipe.class_name)
            policy = policy_class(recipe.parameters)
        self._made[key] = policy
        if len(self._made) > MOST_POLICIES:
            self._made.popitem(last=False)
        return policy

    def _call(self, key: int, parts: list[bytes]) -> Any:
        policy = self.get(key)  # comes first: what is unpickled may be of its modules
        name, function, *arguments = frames.decode(parts)
        return (getattr(policy, name) if name else function)(*arguments)


def serve(sock: socket.socket) -> None:
    """Answer calls until the worker process is gone."""
    collected = Collected()
    logging.root.addHandler(collected)
    policies = Policies()
    with contextlib.suppress(EOFError, ConnectionError):
        frames.send(sock, [READY])
        while True:
            key, seconds, *parts = frames.receive(sock)
            with _time_limit(float(seconds)):
                answer = _answer(policies, key, parts, collected)
            frames.send(sock, answer)


def _answer(policies: Policies, key: bytes, parts: list[bytes], collected: Collected) -> list[frames.Part]:
    try:
        result = policies.answer(key, parts)
        return frames.encode((Report(False, collected.taken(), resident_bytes()), result))
    except BaseException as error:  # also a policy's `sys.exit()`: it is an answer like any other
        return frames.encode((Report(True, collected.taken(), resident_bytes()), _sendable(error)))


def _sendable(error: BaseException) -> Exception:
    """Return `error` with its traceback as a note, or one that says the same where it cannot be pickled."""
    text = "".join(traceback.format_exception(error)).rstrip()
    if isinstance(error, Exception):
        with contextlib.suppress(Exception):
            error.add_note(f"in a helper process:\n{text}")
            copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - just written
            if type(copy) is type(error):
                return error
    stand_in = RuntimeError(f"{type(error).__name__}: {error}")
    stand_in.add_note(f"in a helper process:\n{text}")
    return stand_in


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """End this process when what runs inside takes longer: SIGALRM is left at its default, which kills."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def resident_bytes() -> int:
    """Return the memory that this process holds now, 0 where the system does not say."""
    try:
        return int(_STATM.read_bytes().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def main(descriptor: int, parent: int, memory: int) -> None:
    """Run a helper of the process `parent` on the inherited socket `descriptor`, with `memory` bytes at most."""
    end_with(parent)
    for number in _IGNORED:  # meant for the engine's own processes; this one ends when its socket does
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICE)
    with contextlib.suppress(ValueError, OSError):  # a lower limit is there already
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    importlib.invalidate_caches()
    serve(socket.socket(fileno=descriptor))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
