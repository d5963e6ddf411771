"""One HTTPS GET with hard bounds on time and size; apart from the cache so that each can be tested alone.

`http.client` in a thread, as a key set is fetched once in minutes: no client library is worth its weight in the image.
There is no proxy and no redirect: the keys come from the configured host or not at all.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from policy_jwt.connecting import connect


class FetchError(Exception):
    """The document could not be had; the text says why and may be logged."""


@dataclass(frozen=True, slots=True)
class Document:
    """A fetched body; `max_age` is how long it may be kept by Cache-Control and Age, in seconds, None if not said."""

    body: bytes
    max_age: float | None


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Return a client context that trusts `ca_file`, or else the system; raises OSError when the file is no use."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def fetch(url: str, *, ca_file: str | None, timeout: float, max_bytes: int) -> Document:
    """Get `url` within `timeout` seconds, whatever the server does; raises FetchError. Blocks: call it in a thread."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    deadline = time.monotonic() + timeout
    try:
        # A context for each fetch, so that a renewed CA file counts from the next fetch on.
        context = tls_context(ca_file)
        with (
            connect(host, port, timeout=timeout) as plain,
            context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False) as tls,
            _CutOff(tls, deadline - time.monotonic()),
        ):
            tls.do_handshake()
            connection = http.client.HTTPConnection(host, port)
            connection.sock = tls
            connection.request("GET", target, headers=_request_headers(host, port))
            return _read(connection.getresponse(), max_bytes)
    except (FetchError, OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= deadline:  # then the connection was cut off, however that showed
            raise FetchError(f"no whole answer within {timeout:g} s") from error
        raise FetchError(_explain(error)) from error


def _request_headers(host: str, port: int) -> dict[str, str]:
    name = f"[{host}]" if ":" in host else host
    return {
        "host": name if port == 443 else f"{name}:{port}",
        "accept": "application/jwk-set+json, application/json",
        "accept-encoding": "identity",
        "user-agent": "policy-engine",
        "connection": "close",
    }


class _CutOff(contextlib.AbstractContextManager[None]):
    """Ends a connection at the deadline: socket timeouts alone let a server send one byte for ever."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        # The plain socket's shutdown: the TLS one would wait for the peer, and is not for use by another thread.
        self._timer = threading.Timer(max(seconds, 0.0), self._shutdown, [connection])
        self._timer.daemon = True

    @staticmethod
    def _shutdown(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _read(answer: http.client.HTTPResponse, max_bytes: int) -> Document:
    if answer.status != http.client.OK:
        raise FetchError(f"status {answer.status} instead of 200")
    if answer.getheader("content-encoding", "identity").lower() != "identity":
        raise FetchError("the answer is compressed, though that was not asked for")
    if (answer.length or 0) > max_bytes:
        raise FetchError(f"the answer is larger than {max_bytes} bytes")
    body = bytearray()
    while piece := answer.read1(min(65536, max_bytes + 1 - len(body))):
        body += piece
        if len(body) > max_bytes:
            raise FetchError(f"the answer is larger than {max_bytes} bytes")
    if answer.length:
        raise FetchError("the answer ended early")
    return Document(bytes(body), _max_age(answer))


def _max_age(answer: http.client.HTTPResponse) -> float | None:
    control = answer.getheader("cache-control", "").lower()
    if re.search(r"\bno-(store|cache)\b", control):
        return 0.0
    found = re.search(r"\bmax-age=\"?(\d{1,10})", control)
    if found is None:
        return None
    age = answer.getheader("age", "")
    return max(0.0, float(found[1]) - (float(age) if re.fullmatch(r"\d{1,10}", age) else 0.0))


def _explain(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    return str(error) if isinstance(error, FetchError) else f"{type(error).__name__}: {error}"
