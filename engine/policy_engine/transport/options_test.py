"""Options, addresses and health state that both transports share."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from policy_engine.limits import MIB
from policy_engine.transport import listen
from policy_engine.transport.counters import Counters
from policy_engine.transport.health import EXT_PROC_SERVICE, Health, ServingStatus
from policy_engine.transport.options import Limits


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_connections", 0),
        ("max_concurrent_streams", 0),
        ("max_message_bytes", 0),
        ("max_header_list_bytes", 10),
        ("max_frame_bytes", 16_383),
        ("max_frame_bytes", 2**24),
        ("stream_window_bytes", 65_534),
        ("connection_window_bytes", 100_000),
        ("receive_buffer_bytes", 11 * MIB),
        ("send_buffer_bytes", 1),
        ("handshake_seconds", 0),
    ],
)
def test_limits_that_cannot_work_are_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}, expected"):
        Limits(**{name: value})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9001", ("127.0.0.1", 9001)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:80", ("::1", 80)),
        ("unix:/run/x.sock", Path("/run/x.sock")),
        ("unix:///run/x.sock", Path("/run/x.sock")),
    ],
)
def test_addresses(text: str, expected: tuple[str, int] | Path) -> None:
    assert listen.parse_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "9001", ":9001", "host", "host:", "host:x", "host:65536", "host:-1", "::1:80", "unix:"]
)
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        listen.parse_address(text)


def test_stale_unix_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/x.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(f"{tmp_path}/x.sock")
    stale.close()
    live = listen.bind(address)
    assert listen.bound_address(live) == address
    with pytest.raises(OSError, match=r"x\.sock"):
        listen.bind(address)
    live.close()
    (tmp_path / "file").write_text("not a socket")
    with pytest.raises(OSError, match="file"):
        listen.bind(f"unix:{tmp_path}/file")
    assert (tmp_path / "file").exists()


def test_health_tells_changes_only() -> None:
    health = Health()
    seen: list[bool] = []
    stop = health.observe(lambda: seen.append(health.serving))
    assert health.status("") is health.status(EXT_PROC_SERVICE) is ServingStatus.NOT_SERVING
    assert health.status("other") is ServingStatus.SERVICE_UNKNOWN
    health.set_serving(True)
    health.set_serving(True)
    assert health.status("") is ServingStatus.SERVING
    health.drain()
    health.drain()
    health.set_serving(True)
    assert health.status("") is ServingStatus.NOT_SERVING
    assert seen == [True, False]
    stop()
    health.set_serving(False)
    assert seen == [True, False]


def test_where_another_serves_the_same_addresses_health_says_so_and_watches_end() -> None:
    health = Health(serving=True)
    seen: list[bool] = []
    health.observe(lambda: seen.append(health.draining))
    health.drain(still_served=True)
    assert health.status("") is health.status(EXT_PROC_SERVICE) is ServingStatus.SERVING
    assert seen == [True]
    health.drain()
    assert health.status("") is ServingStatus.SERVING


def test_snapshot_does_not_change() -> None:
    counters = Counters()
    counters.protocol_error("PROTOCOL_ERROR")
    before = counters.snapshot()
    counters.protocol_error("PROTOCOL_ERROR")
    counters.streams_total += 1
    assert before.protocol_errors == {"PROTOCOL_ERROR": 1}
    assert before.streams_total == 0
    assert counters.snapshot().protocol_errors == {"PROTOCOL_ERROR": 2}
