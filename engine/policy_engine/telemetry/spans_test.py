"""Spans as a collector receives them: an OTLP/HTTP server of the test, sessions as Envoy drives them (R-52)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from policy_engine.kernel.kernel import Kernel
from policy_engine.kernel.session import Session
from policy_engine.kernel.stream import Peer
from policy_engine.sdk import ImmediateResponse, Policy, Request, RequestMutation, Response, ResponseMutation
from policy_engine.telemetry.spans import OpenTelemetryTracing
from policy_engine.worker.chains.compiler import Compiler
from policy_engine.worker.chains.spec import ChainsSpec, RouteSpec
from policy_engine.worker.policies.registry import Registry
from testsupport.chains import define, entry
from testsupport.collector import ERROR, SERVER, UNSET, Collector, collector_running
from testsupport.envoy_messages import request_headers, response_headers

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collector_running() as made:
        yield made


class Tag(Policy):
    """Changes request and response."""

    def on_request_headers(self, request: Request) -> RequestMutation:
        return RequestMutation(set_headers={"x-tag": "1"})

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation:
        return ResponseMutation(set_headers={"x-tag": "1"})


class Slow(Policy):
    """Has to wait."""

    async def on_request_headers(self, request: Request) -> None:
        await asyncio.sleep(0.001)


class Never(Policy):
    """Is slower than its timeout."""

    async def on_request_headers(self, request: Request) -> None:
        await asyncio.sleep(30)


class Deny(Policy):
    """Answers by itself."""

    def on_request_headers(self, request: Request) -> ImmediateResponse:
        return ImmediateResponse(403, details="not_you")


class Broken(Policy):
    """Fails."""

    def on_request_headers(self, request: Request) -> None:
        raise RuntimeError("oh no")


def serve(
    collector: Collector,
    *policies: type[Policy],
    traceparent: str = "",
    ratio: float = 1.0,
    timeout: float = 1.0,
    asked: str = "orders",
    condition: str | None = None,
) -> None:
    """Run one stream through a chain of `policies` with spans on, and send what there is."""
    tracing = OpenTelemetryTracing(f"http://127.0.0.1:{collector.port}", ratio, "edge", worker=3)
    compiler = Compiler(Registry([define(one) for one in policies]), tracing=tracing)
    kernel = Kernel(tracing=tracing)
    route = RouteSpec("orders", tuple(entry(one, timeout=timeout, condition=condition) for one in policies))
    kernel.activate(compiler.compile(ChainsSpec((route,))))

    async def stream() -> None:
        session = Session(kernel, Peer())
        pairs = [("x-request-id", "id-1"), *([("traceparent", traceparent)] if traceparent else [])]
        messages = [request_headers(asked, pairs, path="/orders/7?secret=1")]
        if asked == "orders":
            messages.append(response_headers(200))
        for message in messages:
            reply = session.receive(message)
            if asyncio.iscoroutine(reply):
                await reply
        session.close()

    asyncio.run(stream())
    tracing.close()
    compiler.close()


def test_a_stream_is_a_child_of_the_caller_and_the_parent_of_its_hooks(collector: Collector) -> None:
    serve(collector, Tag, Slow, traceparent=f"00-{TRACE}-{PARENT}-01")
    stream = collector.named("policies orders")
    assert stream.trace == TRACE
    assert stream.parent == PARENT
    assert stream.kind == SERVER
    assert stream.attributes == {
        "http.request.method": "GET",
        "url.path": "/orders/7",
        "policy_engine.route": "orders",
        "policy_engine.request_id": "id-1",
    }
    hooks = [span.attributes for span in collector.spans if span.parent == stream.id]
    assert [(one["policy_engine.policy"], one["policy_engine.hook"]) for one in hooks] == [
        ("tag", "on_request_headers"),
        ("slow", "on_request_headers"),
        ("tag", "on_response_headers"),
    ]
    assert [one.get("policy_engine.action") for one in hooks] == ["mutation", None, "mutation"]
    (resource,) = collector.resources
    assert resource["service.name"] == "edge"
    assert resource["service.instance.id"].endswith("/3")


def test_a_request_of_no_route_has_a_span_that_says_so(collector: Collector) -> None:
    serve(collector, Tag, traceparent=f"00-{TRACE}-{PARENT}-01", asked="nowhere")
    stream = collector.named("policies nowhere")
    assert (stream.trace, stream.parent, stream.status) == (TRACE, PARENT, ERROR)
    assert stream.attributes["http.response.status_code"] == 500
    assert stream.attributes["policy_engine.details"] == "policy_engine:unmapped_route"
    assert stream.attributes["url.path"] == "/orders/7"


def test_a_condition_that_fails_tells_why(collector: Collector) -> None:
    serve(collector, Tag, condition='int(request.query.secret) == 1 && request.headers["x-not-there"] == "a"')
    span = collector.named("condition of policy tag")
    assert span.status == ERROR
    assert "no such key in a map" in span.message
    assert span.parent == collector.named("policies orders").id
    assert span.attributes["policy_engine.policy"] == "tag"
    assert collector.named("policies orders").status == ERROR


def test_a_condition_that_does_not_fail_has_no_span(collector: Collector) -> None:
    serve(collector, Tag, condition='request.method == "POST"')
    assert [span.name for span in collector.spans] == ["policies orders"]


def test_a_hook_that_waits_has_its_whole_time(collector: Collector) -> None:
    serve(collector, Slow)
    span = collector.named("policy slow")
    assert span.duration >= 1_000_000


def test_an_answer_is_told_with_its_reason(collector: Collector) -> None:
    serve(collector, Deny)
    stream = collector.named("policies orders")
    assert stream.attributes["http.response.status_code"] == 403
    assert stream.attributes["policy_engine.details"] == "not_you"
    assert stream.status == UNSET
    assert collector.named("policy deny").attributes["policy_engine.action"] == "immediate_response"


@pytest.mark.parametrize(
    ("policy", "reason"), [(Broken, "RuntimeError: oh no"), (Never, "no answer within its timeout")]
)
def test_a_failure_is_an_error_of_the_hook_and_of_the_stream(
    collector: Collector, policy: type[Policy], reason: str
) -> None:
    serve(collector, policy, timeout=0.05)
    hook = collector.named(f"policy {policy.__name__.lower()}")
    assert hook.status == ERROR
    assert reason in hook.message
    stream = collector.named("policies orders")
    assert stream.status == ERROR
    assert stream.attributes["http.response.status_code"] == 500


@pytest.mark.parametrize(
    ("traceparent", "ratio", "traced"),
    [
        (f"00-{TRACE}-{PARENT}-00", 1.0, False),
        (f"00-{TRACE}-{PARENT}-01", 0.0, True),
        ("", 0.0, False),
        ("", 1.0, True),
        ("garbage", 1.0, True),
    ],
)
def test_the_caller_decides_and_without_one_the_ratio(
    collector: Collector, traceparent: str, ratio: float, traced: bool
) -> None:
    serve(collector, Tag, traceparent=traceparent, ratio=ratio)
    assert bool(collector.spans) is traced


def test_a_collector_that_is_away_costs_no_request(collector: Collector) -> None:
    tracing = OpenTelemetryTracing("http://127.0.0.1:9", 1.0, "edge", worker=0)
    kernel = Kernel(tracing=tracing)
    kernel.activate(
        Compiler(Registry([define(Tag)]), tracing=tracing).compile(ChainsSpec((RouteSpec("orders", (entry(Tag),)),)))
    )
    session = Session(kernel, Peer())
    assert session.receive(request_headers("orders"))
    session.close()
