"""Connecting to names some of whose addresses are dead, on the loopback."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence

import pytest

from policy_http.connecting import connect
from policy_jwt.testing import dropping, resolving

NAME = "keys.example.test"


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        found: int = listener.getsockname()[1]
        with dropping("127.0.0.2", found), dropping("127.0.0.3", found):
            yield found


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["127.0.0.2", "127.0.0.1"],
        ["127.0.0.2", "127.0.0.3", "127.0.0.1"],
        ["127.0.0.9", "127.0.0.1"],
        ["127.0.0.2", "127.0.0.9", "127.0.0.1"],
        ["127.0.0.1", "127.0.0.2"],
    ],
)
def test_the_address_that_answers_is_reached(
    addresses: Sequence[str], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, NAME, addresses)
    began = time.monotonic()
    with connect(NAME, port, timeout=30, attempt_delay=0.05) as made:
        assert made.getpeername()[0] == "127.0.0.1"
        assert made.gettimeout() == 30
        made.sendall(b"x")
    assert time.monotonic() - began < 15


def test_only_dead_addresses_take_the_timeout(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, NAME, ["127.0.0.2", "127.0.0.3"])
    with pytest.raises(TimeoutError):
        connect(NAME, port, timeout=0.3, attempt_delay=0.05)


def test_only_refusals_are_told_at_once(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, NAME, ["127.0.0.8", "127.0.0.9"])
    with pytest.raises(ConnectionRefusedError):
        connect(NAME, port, timeout=30)


def test_no_descriptor_is_left_behind(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, NAME, ["127.0.0.2", "127.0.0.9", "127.0.0.1"])

    def highest() -> int:
        with socket.socket() as probe:
            return probe.fileno()

    before = highest()
    for _ in range(5):
        connect(NAME, port, timeout=30, attempt_delay=0.01).close()
    assert highest() == before
