"""Log lines as people and collectors see them: what finds a request again, and what of libraries is left out."""

from __future__ import annotations

import importlib
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hpack
import pytest

from policy_engine.telemetry.logs import configure_logging


@contextmanager
def logged(level: str, form: str, worker: int | None = None) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        configure_logging(level, form, worker=worker, stream=stream)
        yield stream
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)


def test_debug_is_ours_alone() -> None:
    with logged("debug", "json") as stream:
        for name in ("policy_engine.kernel", "policy.add-tenant", "policy_jwt", "acme.tenant"):
            logging.getLogger(name).debug("ours")
        encoder, decoder = hpack.Encoder(), hpack.Decoder()
        decoder.decode(encoder.encode([("a", "b"), (":path", "/")]))
        for name in ("aiohttp.access", "asyncio"):
            record = logging.LogRecord(name, logging.INFO, "/x/site-packages/lib.py", 1, "theirs", None, None)
            logging.getLogger(name).handle(record)
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            logging.getLogger(name).handle(record)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["logger"], line["level"]) for line in lines] == [
        ("policy_engine.kernel", "debug"),
        ("policy.add-tenant", "debug"),
        ("policy_jwt", "debug"),
        ("acme.tenant", "debug"),
        ("aiohttp.access", "warning"),
        ("asyncio", "warning"),
    ]


@pytest.mark.parametrize("worker", [None, 3])
def test_text_lines_have_route_request_and_trace(worker: int | None) -> None:
    facts = {"route": "to the api", "request_id": "r-1", "trace_id": "0af7651916cd43dd8448eb211c80319c"}
    with logged("info", "text", worker) as stream:
        logging.getLogger("policy_engine").info("said", extra=facts)
        logging.getLogger("policy_engine").info("plain")
        logging.getLogger("policy_engine").info("forged", extra={"route": 'a\nb] "'})
    first, second, third = stream.getvalue().splitlines()
    assert first.endswith(': said [route="to the api" request_id=r-1 trace_id=0af7651916cd43dd8448eb211c80319c]')
    assert second.endswith(": plain")
    assert third.endswith(r': forged [route="a\nb] \""]')
    assert ("[worker 3]" in first) == (worker == 3)


def test_lines_of_a_current_span_have_its_trace() -> None:
    importlib.import_module("policy_engine.telemetry.spans")  # joins the parts of the package `opentelemetry`
    trace: Any = importlib.import_module("opentelemetry.trace")
    span = trace.NonRecordingSpan(trace.SpanContext(0xABC, 0xDEF, is_remote=False))
    with logged("info", "json") as stream:
        with trace.use_span(span):
            logging.getLogger("policy_engine").info("inside")
        logging.getLogger("policy_engine").info("outside")
    inside, outside = map(json.loads, stream.getvalue().splitlines())
    assert inside["trace_id"] == f"{0xABC:032x}"
    assert "trace_id" not in outside
