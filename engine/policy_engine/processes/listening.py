"""Sockets that are listened on: those that worker processes share, those of one alone, those another engine gave.

What another engine gave is used in place of binding the same address anew, so that no connection is refused meanwhile.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from policy_engine.processes.serving import WorkerOptions
from policy_engine.settings.forms import WORKER_PLACE
from policy_engine.transport.listen import UNIX_PREFIX, bind, is_bound_to, parse_unix, restrict

FIRST_RETRY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Listening:
    """A socket that listens, and its address as the settings have it."""

    address: str
    sock: socket.socket


class Given:
    """What another engine gave to this one; `taken` are the addresses that are used, by how that one wrote them."""

    def __init__(self, found: Iterable[Listening] = ()) -> None:
        self._left = list(found)
        self.taken: dict[str, str] = {}

    @property
    def descriptors(self) -> list[int]:
        """Those that nobody took yet."""
        return [one.sock.fileno() for one in self._left]

    def take(self, address: str) -> socket.socket | None:
        """Return the socket of `address`, with its mode and group as written there; None when there is none.

        Raises OSError when mode or group cannot be had.
        """
        for one in self._left:
            if one.address == address or is_bound_to(one.sock, address):
                if address.startswith(UNIX_PREFIX):
                    restrict(parse_unix(address))
                self._left.remove(one)
                self.taken[one.address] = address
                one.sock.setblocking(False)
                return one.sock
        return None

    def close(self) -> None:
        """Close what nobody took."""
        for one in self._left:
            one.sock.close()
        self._left.clear()


class PoolSockets:
    """The sockets of all worker processes of a pool of `count`, and with them the options of each.

    An address of one worker process alone is bound by it: while it is dead, clients are refused and can go elsewhere.
    With `shared_by_one`, even one alone accepts from a socket of the supervisor's, so that others can in its place.
    """

    def __init__(self, options: WorkerOptions, count: int, given: Given, *, shared_by_one: bool = False) -> None:
        self._given = given
        self._count = count
        self._shared = tuple(
            one
            for one in options.bind
            if WORKER_PLACE not in one
            and (count > 1 or shared_by_one)
            and (one.startswith(UNIX_PREFIX) or options.transport != "grpcio")
        )
        self._sockets: list[Listening] = []
        self._options = [self._numbered(options, number) for number in range(count)]
        self._to_pass: dict[int, list[Listening]] = {}

    def _numbered(self, options: WorkerOptions, number: int) -> WorkerOptions:
        """Give worker process `number` its own addresses: `{worker}` filled in, those that all share left out."""
        own = tuple(one.replace(WORKER_PLACE, str(number)) for one in options.bind if one not in self._shared)
        # grpcio takes no socket from outside, so its processes share a port as far as the kernel lets them.
        reuse_port = options.transport == "grpcio" and self._count > 1
        return replace(options, number=number, bind=own, reuse_port=reuse_port)

    async def open(self, wait: Callable[[str, float], Awaitable[float]]) -> None:
        """Bind what all share, calling `wait` with reason and delay while that fails; it returns the next delay.

        Raises OSError for what can never be.
        """
        if self._shared and self._options[0].transport == "grpcio":
            raise OSError(
                f"{self._shared[0]} cannot be shared by {self._count} workers over the grpcio transport: "
                f"write {WORKER_PLACE} into the path, so that each has its own, or use `transport: native`"
            )
        for number, options in enumerate(self._options):
            found = ((address, self._given.take(address)) for address in options.bind)
            self._to_pass[number] = [Listening(address, sock) for address, sock in found if sock is not None]
        for address in self._shared:
            delay = FIRST_RETRY_SECONDS
            while True:
                try:
                    self._sockets.append(Listening(address, self._given.take(address) or bind(address)))
                    break
                except OSError as error:
                    delay = await wait(error.strerror or str(error), delay)

    def options(self, number: int) -> WorkerOptions:
        """Return what worker process `number` is started with."""
        passed = self._to_pass.get(number, ())
        sockets = [one.sock.fileno() for one in (*self._sockets, *passed)]
        taken = {one.address: len(self._sockets) + place for place, one in enumerate(passed)}
        return replace(self._options[number], inherited=tuple(sockets), taken=taken)

    def passed(self, number: int) -> None:
        """Note that worker process `number` listens: what it was passed is its own from now on."""
        for one in self._to_pass.pop(number, ()):
            one.sock.close()

    def shared(self) -> list[Listening]:
        """Return the sockets that all accept from."""
        return list(self._sockets)

    def release(self, kept: frozenset[str] = frozenset()) -> None:
        """Close them; the files of Unix sockets go too, but for the addresses `kept`, which another engine serves."""
        for one in self._sockets:
            one.sock.close()
            if one.address.startswith(UNIX_PREFIX) and one.address not in kept:
                with contextlib.suppress(OSError):
                    parse_unix(one.address).path.unlink()
        self._sockets.clear()
        for number in tuple(self._to_pass):
            self.passed(number)
