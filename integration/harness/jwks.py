"""A real JWKS endpoint over TLS, which can count its fetches and be made to fail; apart from who mints the tokens."""

from __future__ import annotations

import json
import ssl
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from integration.harness.certificates import CertificateAuthority
from integration.harness.tokens import Issuer


class JwksServer:
    """Serves the current keys of `issuer` at `url`; a context manager. Trust `authority` to reach it.

    `fail_with` and `body` change what it answers; while `answering` is not set it answers nothing.
    """

    def __init__(
        self,
        issuer: Issuer,
        authority: CertificateAuthority,
        directory: Path,
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.fetches = 0
        self.fail_with: HTTPStatus | None = None
        self.body: bytes | None = None
        self.answering = threading.Event()
        self.answering.set()
        self._issuer = issuer
        self._server = _TlsServer(address, self._handler(), authority.server_context(directory))
        self._thread = threading.Thread(target=self._server.serve_forever, name="jwks")

    @property
    def url(self) -> str:
        """Where the key set is; by address, because a container need not resolve `localhost`."""
        return f"https://127.0.0.1:{self.port}/.well-known/jwks.json"

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._server.server_address[1]
        return port

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.fetches += 1
                outer.answering.wait()
                body = json.dumps(outer._issuer.jwks()).encode() if outer.body is None else outer.body
                self.send_response(outer.fail_with or HTTPStatus.OK)
                self.send_header("content-type", "application/jwk-set+json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Stay quiet: the output belongs to the tests."""

        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.answering.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _TlsServer(ThreadingHTTPServer):
    """Does the TLS handshake in the thread of the connection, so that one silent client cannot hold up the rest."""

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext
    ) -> None:
        self._context = context
        super().__init__(address, handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self._context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that rejects our certificate is a case under test, not an error to print."""
