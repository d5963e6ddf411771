"""A process that makes and closes policies on trial, so that what hangs or crashes in it holds up nobody else.

It says when it has imported a policy, and then what came of it. Where C code keeps it from saying so, its stack is
written without the interpreter's leave.
"""

from __future__ import annotations

import contextlib
import faulthandler
import socket
import sys
from pathlib import Path

from policy_engine.worker.offload import frames
from policy_engine.worker.offload.job import Recipe
from policy_engine.worker.offload.parent import end_with
from policy_engine.worker.policies.closing import CLOSE_SECONDS
from policy_engine.worker.policies.construction import Overrun
from policy_engine.worker.policies.importing import PolicyImportError, import_policy_module
from policy_engine.worker.policies.trial import Refusal, make_and_close

STACK_SECONDS = 0.5
"""After the time of what is tried; what can be broken off in Python has been by then."""

IMPORTED, MADE, DONE = range(3)
"""What it says: the first two at most once for each trial, the last with a Refusal or None, and how it was too late."""


def serve(sock: socket.socket, stacks: int) -> None:
    """Try what is sent until nobody sends any more; stacks of what hangs go to the descriptor `stacks`."""
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            recipe, seconds = frames.decode(frames.receive(sock))
            refusal, late = _tried(sock, stacks, recipe, seconds)
            _say(sock, DONE, refusal, late)


def _tried(sock: socket.socket, stacks: int, recipe: Recipe, seconds: float) -> tuple[Refusal | None, str]:
    def made() -> None:
        faulthandler.dump_traceback_later(CLOSE_SECONDS + STACK_SECONDS, file=stacks)
        _say(sock, MADE)

    try:
        module = import_policy_module(Path(recipe.directory), recipe.module, recipe.label)
    except PolicyImportError as error:
        return Refusal(error.reason, expected=False), ""
    _say(sock, IMPORTED)
    faulthandler.dump_traceback_later(seconds + STACK_SECONDS, file=stacks)
    try:
        return make_and_close(getattr(module, recipe.class_name), recipe.parameters, seconds, made), ""
    except Overrun as error:
        return None, str(error)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _say(sock: socket.socket, *what: object) -> None:
    frames.send(sock, frames.encode(what))


def main(descriptor: int, stacks: int, parent: int) -> None:
    """Run the trials of the process `parent` that come over the inherited socket `descriptor`."""
    end_with(parent)
    serve(socket.socket(fileno=descriptor), stacks)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
