"""A TCP connection to a name with several addresses, one of which may be dead (RFC 8305).

A separate module because `socket.create_connection` waits its whole time for the first address.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import time
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

ATTEMPT_DELAY = 0.25
"""Seconds after which the next address is tried beside those that have not answered (RFC 8305, 5)."""

_UNDER_WAY = frozenset((errno.EINPROGRESS, errno.EWOULDBLOCK))
_Address = tuple[int, Any]


def connect(host: str, port: int, *, timeout: float, attempt_delay: float = ATTEMPT_DELAY) -> socket.socket:
    """Return a connected socket with that timeout; raises OSError, after `timeout` seconds at most. It blocks."""
    deadline = time.monotonic() + timeout
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    waiting = _interleaved([(one[0], one[4]) for one in found])[::-1]
    failure: OSError = OSError(f"{host} has no address")
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as attempts:
        next_start = time.monotonic()
        while waiting or selector.get_map():
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError("timed out")
            if waiting and (now >= next_start or not selector.get_map()):
                failure = _start(waiting.pop(), selector, attempts) or failure
                next_start = time.monotonic() + attempt_delay
                continue
            until = min(deadline, next_start) if waiting else deadline
            for key, _ in selector.select(max(0.0, until - now)):
                attempt: Any = key.fileobj
                selector.unregister(attempt)
                error = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not error:
                    return _kept(attempt, timeout)
                failure = OSError(error, os.strerror(error))
                next_start = time.monotonic()  # a refusal is an answer: the next one at once
    raise failure


def _start(address: _Address, selector: selectors.BaseSelector, attempts: contextlib.ExitStack) -> OSError | None:
    family, target = address
    try:
        attempt = attempts.enter_context(socket.socket(family, socket.SOCK_STREAM))
        attempt.setblocking(False)
        error = attempt.connect_ex(target)
    except OSError as problem:  # a family that this machine does not have
        return problem
    if error and error not in _UNDER_WAY:
        return OSError(error, os.strerror(error))
    selector.register(attempt, selectors.EVENT_WRITE)
    return None


def _kept(chosen: socket.socket, timeout: float) -> socket.socket:
    kept = socket.socket(fileno=os.dup(chosen.fileno()))  # the others, and this object, are closed with the stack
    kept.settimeout(timeout)
    return kept


def _interleaved(addresses: Iterable[_Address]) -> list[_Address]:
    """Return the addresses with their families taking turns, beginning with that of the first (RFC 8305, 4)."""
    by_family: dict[int, list[_Address]] = {}
    for address in addresses:
        by_family.setdefault(address[0], []).append(address)
    return [address for turn in zip_longest(*by_family.values()) for address in turn if address is not None]
