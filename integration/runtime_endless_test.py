"""Upgrades, tunnels and gRPC streams on routes whose policies need whole bodies: decided at the headers, never hung."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from integration.harness.client_h2 import send_h2
from integration.runtime_stack import Runtime, connection_manager, generated, scripted

CHAINS = {
    "closed": [scripted(request_body={"upper": True})],
    "closed-response": [scripted(response_body={"upper": True})],
    "open": [scripted("open", request_body={"upper": True}, response_body={"upper": True})],
    "mixed": [
        scripted("open", request_body={"upper": True}),
        scripted(request_headers={"set": {"x-seen": "1"}}, response_headers={"set": {"x-seen": "1"}}),
    ],
    "headers": [scripted(request_headers={"set": {"x-seen": "1"}})],
}
PASSES = ("open", "mixed", "headers")
REFUSES = ("closed", "closed-response")
GRPC = [("content-type", "application/grpc"), ("te", "trailers")]


class Tunnel:
    """An upstream that accepts every upgrade, and sends back what it gets, in upper case."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = connection.recv(65536)
                if not piece:
                    return
                head += piece
            if head.startswith(b"CONNECT"):
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                connection.sendall(
                    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
                )
            while piece := connection.recv(65536):
                connection.sendall(piece.upper())

    def close(self) -> None:
        self._listener.close()


def _upgrades(tunnel: Tunnel | None) -> Any:
    def change(config: Any) -> None:
        manager = connection_manager(config)
        manager["upgrade_configs"] = [{"upgrade_type": "websocket"}, {"upgrade_type": "CONNECT"}]
        manager.setdefault("http2_protocol_options", {})["allow_connect"] = True
        if tunnel is None:
            return
        for cluster in config["static_resources"]["clusters"]:
            if cluster["name"] == "upstream":
                endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
                endpoint["address"]["socket_address"]["port_value"] = tunnel.port

    return change


@pytest.fixture(scope="module")
def tunnelled(transport: str) -> Iterator[Runtime]:
    tunnel = Tunnel()
    with generated(CHAINS, transport=transport, change=_upgrades(tunnel)) as runtime:
        yield runtime
    tunnel.close()


@pytest.fixture(scope="module")
def grpc_side(transport: str) -> Iterator[Runtime]:
    with generated(CHAINS, transport=transport, change=_upgrades(None)) as runtime:
        yield runtime


def _websocket(port: int, name: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), 5)
    sock.sendall(
        f"GET /{name} HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n".encode()
    )
    return sock


@pytest.mark.parametrize("name", PASSES)
def test_a_websocket_passes_at_once_where_policies_of_bodies_fail_open(tunnelled: Runtime, name: str) -> None:
    with _websocket(tunnelled.envoy.port, name) as sock:
        assert sock.recv(65536).startswith(b"HTTP/1.1 101 ")
        for _ in range(3):
            sock.sendall(b"frame")
            assert sock.recv(65536) == b"FRAME"


@pytest.mark.parametrize("name", REFUSES)
def test_a_websocket_is_refused_at_once_where_a_policy_of_bodies_fails_closed(tunnelled: Runtime, name: str) -> None:
    with _websocket(tunnelled.envoy.port, name) as sock:
        answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 501 ")
    assert b"request_id" in answer


def test_a_header_alone_is_no_upgrade(grpc_side: Runtime) -> None:
    reply = grpc_side.send("/open", method="POST", headers=[("upgrade", "websocket")], body=b"abc")
    assert reply.status == 200
    assert bytes(grpc_side.upstream.last().body) == b"ABC"


@pytest.mark.parametrize("name", [*PASSES, *REFUSES])
def test_an_extended_connect_is_decided_alike(tunnelled: Runtime, name: str) -> None:
    with socket.create_connection(("127.0.0.1", tunnelled.envoy.port), 5) as sock:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(validate_outbound_headers=False))
        connection.initiate_connection()
        connection.send_headers(
            1,
            [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":path", f"/{name}"),
                (":authority", "a"),
                ("sec-websocket-version", "13"),
            ],
        )
        sock.sendall(connection.data_to_send())
        status, data = "", b""
        while not status or (status == "200" and data != b"FRAME"):
            received = sock.recv(65536)
            assert received
            for event in connection.receive_data(received):
                if isinstance(event, h2.events.ResponseReceived):
                    status = dict(event.headers)[b":status"].decode()
                    if status == "200":
                        connection.send_data(1, b"frame")
                elif isinstance(event, h2.events.DataReceived):
                    data += event.data
            sock.sendall(connection.data_to_send())
    assert status == ("501" if name in REFUSES else "200")


@pytest.mark.parametrize("name", REFUSES)
def test_a_grpc_stream_is_refused_with_a_grpc_status(grpc_side: Runtime, name: str) -> None:
    reply = send_h2(grpc_side.envoy.port, "POST", f"/{name}", headers=GRPC, body=[b"\0\0\0\0\1a"])
    status = reply.values("grpc-status") or dict(reply.trailers).get("grpc-status")
    assert status in (["12"], "12")
    assert "request id" in (reply.header("grpc-message") or "")


@pytest.mark.parametrize("name", ["open", "mixed"])
def test_a_grpc_stream_that_does_not_end_reaches_the_upstream(grpc_side: Runtime, name: str) -> None:
    grpc_side.upstream.reset()
    with socket.create_connection(("127.0.0.1", grpc_side.envoy.port), 5) as sock:
        connection = h2.connection.H2Connection()
        connection.initiate_connection()
        pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", f"/{name}")]
        connection.send_headers(1, [*pseudo, *GRPC])
        connection.send_data(1, b"\0\0\0\0\1a")  # and nothing more
        sock.sendall(connection.data_to_send())
        for _ in range(100):
            if any(bytes(one.body) for one in grpc_side.upstream.received):
                break
            threading.Event().wait(0.05)
    assert bytes(grpc_side.upstream.last().body) == b"\0\0\0\0\1a"


def test_a_grpc_message_of_known_length_is_read_whole(grpc_side: Runtime) -> None:
    headers = [*GRPC, ("content-length", "6")]
    assert send_h2(grpc_side.envoy.port, "POST", "/closed", headers=headers, body=[b"\0\0\0\0\1a"]).status == 200
    assert bytes(grpc_side.upstream.last().body) == b"\0\0\0\0\1A"


def test_expect_continue_is_as_ever(grpc_side: Runtime) -> None:
    with socket.create_connection(("127.0.0.1", grpc_side.envoy.port), 5) as sock:
        sock.sendall(b"POST /closed HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"abc")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert bytes(grpc_side.upstream.last().body) == b"ABC"
