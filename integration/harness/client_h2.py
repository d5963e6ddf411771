"""An HTTP/2 client over cleartext with prior knowledge (RFC 9113, 3.3), for what HTTP/1.1 cannot say: its trailers."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Sequence

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

from integration.harness.client import DEFAULT_TIMEOUT_S, ClientError, Reply
from integration.harness.exchange import HeaderList

_READ_SIZE = 65536


def send_h2(
    port: int,
    method: str,
    target: str,
    *,
    headers: HeaderList = (),
    body: Sequence[bytes] = (),
    trailers: HeaderList = (),
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Reply:
    """Send one request on its own connection and return the whole response; each element of `body` is a DATA frame.

    Bodies have to fit into the initial window (64 KiB). Raises ClientError when the stream or connection is broken off.
    """
    with socket.create_connection(("127.0.0.1", port), timeout_s) as sock:
        connection = H2Connection(H2Configuration(header_encoding="latin-1"))
        connection.initiate_connection()
        pseudo = [(":method", method), (":scheme", "http"), (":authority", f"127.0.0.1:{port}"), (":path", target)]
        connection.send_headers(1, [*pseudo, *headers], end_stream=not body and not trailers)
        for number, piece in enumerate(body, 1):
            connection.send_data(1, piece, end_stream=number == len(body) and not trailers)
        if trailers:
            connection.send_headers(1, list(trailers), end_stream=True)
        sock.sendall(connection.data_to_send())
        return _receive(connection, sock)


def _receive(connection: H2Connection, sock: socket.socket) -> Reply:
    reply: Reply | None = None
    while data := sock.recv(_READ_SIZE):
        for event in connection.receive_data(data):
            if isinstance(event, ResponseReceived):
                pairs = _pairs(event.headers)
                reply = Reply(int(pairs[0][1]), pairs[1:])
            elif isinstance(event, DataReceived) and reply is not None:
                reply.chunks.append((time.monotonic(), event.data))
                connection.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, TrailersReceived) and reply is not None:
                reply.trailers = _pairs(event.headers)
            elif isinstance(event, StreamEnded) and reply is not None:
                return reply
            elif isinstance(event, StreamReset | ConnectionTerminated):
                raise ClientError(f"broken off: {event}")
        sock.sendall(connection.data_to_send())
    raise ClientError("connection closed before the response's end")


def _pairs(headers: Iterable[tuple[bytes | str, bytes | str]]) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in headers]
