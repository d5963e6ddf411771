"""Plays Envoy's part for one exchange, on the real kernel with the chain as the compiler made it, and records it."""

from __future__ import annotations

import http.client
import ssl
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from policy_engine.explain.http_text import HttpRequest, HttpResponse
from policy_engine.explain.record import ExchangeRecord, Verdict
from policy_engine.explain.recorder import Recorder, Wanted
from policy_engine.kernel.header_lines import HeaderLines, Part
from policy_engine.kernel.kernel import Kernel
from policy_engine.kernel.reply import ProcessingMode
from policy_engine.kernel.route_key import ROUTE_NAME, SOURCE_ADDRESS
from policy_engine.kernel.routes import configured_mode
from policy_engine.kernel.stream import Peer, StreamError
from policy_engine.kit.exchange import EnvoyStream, HttpMessage, without_body
from policy_engine.sdk import Request
from policy_engine.sdk.headers import decode_value

UPSTREAM_SECONDS = 30.0
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "content-length"}
)

Upstream = Callable[[HttpMessage], HttpResponse]
"""Answers the request as it goes on."""


class UpstreamFailed(Exception):
    """The upstream could not be asked; the message says why."""


@dataclass(slots=True)
class _All:
    """Wants the one record."""

    body_limit: int
    records: list[ExchangeRecord] = field(default_factory=list)
    watching: bool = True

    def wants(self, request: Request) -> Wanted | None:
        return Wanted(lambda ended: self.records.append(ended.record), self.body_limit)

    def dropped(self) -> None:
        raise AssertionError("there is one stream")


async def play(
    kernel: Kernel,
    request: HttpRequest,
    upstream: Upstream,
    *,
    mode: Any = None,
    overrides: bool = True,
    body_limit: int = 2000,
) -> ExchangeRecord:
    """Send `request` through the chain of `request.route` and the upstream's response back; returns the record.

    `mode` is the `ProcessingMode` of Envoy's configuration, that of the generated one unless given. Raises
    UpstreamFailed.
    """
    watcher = _All(body_limit)
    recorder = Recorder(kernel, (watcher,))
    recorder.refresh()
    session = recorder.handler(Peer())
    attributes = {
        **request.attributes,
        ROUTE_NAME: request.route,
        SOURCE_ADDRESS: _source(request.client_address),
    }
    configured = _configured(kernel, request.route) if mode is None else mode
    stream = EnvoyStream(session, configured, attributes, request.envoy_metadata, overrides=overrides)
    message = HttpMessage("request", HeaderLines(Part.REQUEST_HEADERS, _lines(request)), request.body)
    given: HttpResponse | None = None
    try:
        if await stream.request(message):
            given = upstream(message)
            answer = HttpMessage("response", HeaderLines(Part.RESPONSE_HEADERS, _answer_lines(given)))
            if not without_body(message.headers, answer.headers):
                answer.body = given.body
            await stream.response(answer)
    except StreamError:
        pass  # which is in the record
    finally:
        session.close()
    record = watcher.records[0]
    for what, body, seen in (
        ("request", request.body, record.request),
        ("response", given.body if given is not None else None, record.response),
    ):
        if body and seen is not None and seen.body_bytes is None and record.verdict is Verdict.PASSED:
            record.notes.append(f"the body of the {what} ({len(body)} bytes) passes unseen: no policy asks for it")
    return record


def answering(response: HttpResponse) -> Upstream:
    """Return an upstream that answers everything with `response`."""
    return lambda _: response


def asking(url: str) -> Upstream:
    """Return the upstream at `url` (`http://host:port`), asked for real."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--upstream {url!r}: expected http://host:port or https://host:port")

    def ask(message: HttpMessage) -> HttpResponse:
        headers = [(name, decode_value(raw)) for name, raw in message.headers]
        pseudo = dict(headers)
        body = message.body if message.body is not None else b"".join(message.passed) or None
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                str(parts.hostname), parts.port, timeout=UPSTREAM_SECONDS, context=context
            )
        else:
            connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=UPSTREAM_SECONDS)
        try:
            connection.putrequest(pseudo[":method"], pseudo[":path"], skip_host=True, skip_accept_encoding=True)
            connection.putheader("host", pseudo[":authority"])
            for name, value in headers:
                if not name.startswith(":") and name not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            if body is not None:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UpstreamFailed(f"{url}: {error or type(error).__name__}") from None
        finally:
            connection.close()
        kept = tuple((name.lower(), value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP)
        return HttpResponse(answer.status, kept, data or None)

    return ask


def _configured(kernel: Kernel, route: str) -> Any:
    found = None if kernel.routes is None else kernel.routes.get(route)
    if found is None:
        return ProcessingMode(request_header_mode=ProcessingMode.SEND)
    return configured_mode(found.chain.needs)


def _source(address: str) -> str:
    return f"[{address}]:50000" if ":" in address else f"{address}:50000"


def _lines(request: HttpRequest) -> list[tuple[str, str]]:
    """Return the request's headers as Envoy has them: it adds an id, and the scheme for upstreams."""
    pseudo = [
        (":method", request.method),
        (":path", request.target),
        (":authority", request.authority),
        (":scheme", request.scheme),
    ]
    lines = [*pseudo, *request.headers]
    names = {name for name, _ in lines}
    if request.body is not None and "content-length" not in names:
        lines.append(("content-length", str(len(request.body))))
    if "x-forwarded-proto" not in names:
        lines.append(("x-forwarded-proto", request.scheme))
    if "x-request-id" not in names:
        lines.append(("x-request-id", str(uuid.uuid4())))
    return lines


def _answer_lines(response: HttpResponse) -> list[tuple[str, str]]:
    lines = [(":status", str(response.status)), *response.headers]
    if response.body is not None and "content-length" not in {name for name, _ in lines}:
        lines.append(("content-length", str(len(response.body))))
    return lines
