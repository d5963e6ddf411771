"""Names with dead addresses, for tests: what connects to them waits and hears nothing. Not part of an image."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import pytest


@contextlib.contextmanager
def dropping(address: str, port: int) -> Iterator[None]:
    """Have TCP packets to an address of the loopback dropped."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(8):  # a full backlog: Linux drops what comes then
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((address, port))
        yield


def resolving(monkeypatch: pytest.MonkeyPatch, name: str, addresses: Sequence[str]) -> None:
    """Let a name have these addresses, in this order."""
    real = socket.getaddrinfo

    def looked_up(host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        if host not in (name, name.encode()):
            return list(real(host, port, *args, **options))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
