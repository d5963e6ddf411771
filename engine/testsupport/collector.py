"""An OpenTelemetry collector for tests: an OTLP/HTTP server for JSON, which keeps spans and log records."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SERVER = 2
"""`SPAN_KIND_SERVER` (opentelemetry-proto, trace.proto)."""
UNSET, ERROR = 0, 2
"""`Status.StatusCode`."""


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it came; ids are hexadecimal, `parent` is empty for a root, `duration` is in nanoseconds."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    attributes: dict[str, Any]
    status: int
    message: str
    duration: int


@dataclass
class Collector:
    """Every span that was exported, and the resources they came from; log records as they came."""

    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    logs: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    def named(self, name: str) -> Span:
        """The one span of that name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def take(self, request: Any) -> None:
        """Keep what an `ExportTraceServiceRequest` or an `ExportLogsServiceRequest` holds."""
        for group in request.get("resourceLogs", ()):
            for scope in group["scopeLogs"]:
                self.logs += scope["logRecords"]
        for group in request.get("resourceSpans", ()):
            self.resources.append(_attributes(group["resource"]))
            for scope in group["scopeSpans"]:
                self.spans += map(_span, scope["spans"])


def _span(span: Any) -> Span:
    status = span.get("status", {})
    return Span(
        name=span["name"],
        trace=span["traceId"],
        id=span["spanId"],
        parent=span.get("parentSpanId", ""),
        kind=span["kind"],
        attributes=_attributes(span),
        status=status.get("code", UNSET),
        message=status.get("message", ""),
        duration=int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"]),
    )


def _attributes(holder: Any) -> dict[str, Any]:
    found = {}
    for one in holder.get("attributes", ()):
        ((kind, value),) = one["value"].items()
        found[one["key"]] = int(value) if kind == "intValue" else value
    return found


@contextmanager
def collector_running() -> Iterator[Collector]:
    """A collector on a free port of 127.0.0.1."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            right = self.path in ("/v1/traces", "/v1/logs") and self.headers["content-type"] == "application/json"
            if right:
                collector.take(json.loads(body))
            self.send_response(200 if right else 400)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
