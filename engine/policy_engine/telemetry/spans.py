"""Spans for OpenTelemetry: one for each stream, under the caller's `traceparent`, and one for each hook (R-52).

A separate module because only a worker with `tracing.endpoint` imports it: the SDK and its exporter cost 0.3 s to load.
Spans are sent in batches by a thread of the exporter; when the collector is away they are dropped, never waited for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import extend_path
from typing import Any

import opentelemetry

# xds-protos has a package `opentelemetry` too, which hides the parts of others where every wheel has a directory of its
# own on the path, as under Bazel; joined, they are what an installation has.
opentelemetry.__path__ = extend_path(opentelemetry.__path__, "opentelemetry")

from opentelemetry import trace
from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import Getter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from policy_engine import __version__
from policy_engine.sdk import Headers, ImmediateResponse, Request, Response
from policy_engine.worker.chains.compiled import Condition, Narrowed

_FLUSH_SECONDS = 5
_PATH = "/v1/traces"
"""Where collectors take traces below their base path (OTLP 1.9, OTLP/HTTP Request)."""


class _HeadersGetter(Getter[Headers]):
    def get(self, carrier: Headers, key: str) -> list[str] | None:
        return list(carrier.get_all(key)) or None

    def keys(self, carrier: Headers) -> list[str]:
        return list(carrier)


class OpenTelemetryTracing:
    """A tracer provider of this process with its exporter; what the methods are for, `worker.tracing.Tracing` says."""

    def __init__(self, endpoint: str, sample_ratio: float, service_name: str, worker: int) -> None:
        resource = Resource.create(
            {
                "service.name": service_name,
                "service.version": __version__,
                "service.instance.id": f"{os.uname().nodename}/{worker}",
            }
        )
        # At exit the SDK would wait for the collector as long as it likes; `close` does not.
        self._provider = TracerProvider(
            resource=resource, sampler=ParentBased(TraceIdRatioBased(sample_ratio)), shutdown_on_exit=False
        )
        # JSON, because the wheels of OTLP's protobuf classes and of Envoy's hold different files of one name.
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.removesuffix(_PATH)}{_PATH}")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("policy_engine", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._getter = _HeadersGetter()

    def close(self) -> None:
        """Send what is left, for at most five seconds. Blocks."""
        self._provider.force_flush(_FLUSH_SECONDS * 1000)
        self._provider.shutdown()

    def begin(self, request: Request) -> Span | None:
        """Start the span of a stream as a child of the request's `traceparent` (W3C Trace Context)."""
        caller = self._propagator.extract(request.headers, getter=self._getter)
        span = self._tracer.start_span(f"policies {request.route}", context=caller, kind=SpanKind.SERVER)
        if not isinstance(span, Span):
            return None  # not sampled
        span.set_attributes(
            {
                "http.request.method": request.method,
                "url.path": request.path,
                "policy_engine.route": request.route,
                "policy_engine.request_id": request.id,
            }
        )
        return span

    def answered(self, span: Span, response: ImmediateResponse) -> None:
        """The stream's span tells the status and, for what is the engine's own fault, that it is an error."""
        span.set_attribute("http.response.status_code", response.status)
        span.set_attribute("policy_engine.details", response.details)
        if response.status >= 500:
            span.set_status(Status(StatusCode.ERROR, response.details))

    def end(self, span: Span) -> None:
        """End the stream's span."""
        span.end()

    def explained(self, condition: Condition, policy: str, version: str) -> Condition:
        """Return `condition` with a span for each evaluation that fails: there the policy has none of its own."""
        attributes = {"policy_engine.policy": policy, "policy_engine.policy_version": version}
        return _ExplainedCondition(condition, self._tracer, f"condition of policy {policy}", attributes)

    def around(self, hook: Callable[..., Any], policy: str, version: str, name: str) -> Callable[..., Any]:
        """Give each call of `hook` a span, which is the current one while the policy runs."""
        tracer = self._tracer
        title = f"policy {policy}"
        attributes = {
            "policy_engine.policy": policy,
            "policy_engine.policy_version": version,
            "policy_engine.hook": name,
        }

        def traced(request: Request, *rest: Any) -> Any:
            parent = request.trace
            if parent is None:
                return hook(request, *rest)
            span = tracer.start_span(title, context=trace.set_span_in_context(parent), attributes=attributes)
            try:
                with trace.use_span(span, record_exception=True, set_status_on_exception=True):
                    result = hook(request, *rest)
            except BaseException:
                span.end()
                raise
            if hasattr(result, "__await__"):
                return _awaited(span, result)
            return _finished(span, result)

        return traced


@dataclass(frozen=True, slots=True)
class _ExplainedCondition:
    condition: Condition
    tracer: trace.Tracer
    title: str
    attributes: dict[str, str]

    @property
    def text(self) -> str:
        return self.condition.text

    @property
    def uses_response(self) -> bool:
        return self.condition.uses_response

    def why_not(self, request: Request, response: Response | None) -> str:
        return self.condition.why_not(request, response) if isinstance(self.condition, Narrowed) else ""

    def evaluate(self, request: Request, response: Response | None) -> bool:
        try:
            return self.condition.evaluate(request, response)
        except Exception as error:
            if request.trace is not None:
                parent = trace.set_span_in_context(request.trace)
                span = self.tracer.start_span(self.title, context=parent, attributes=self.attributes)
                span.set_status(Status(StatusCode.ERROR, str(error)))
                span.end()
            raise


async def _awaited(span: trace.Span, waiting: Any) -> Any:
    try:
        with trace.use_span(span, record_exception=True, set_status_on_exception=True):
            return _noted(span, await waiting)
    except BaseException as error:  # a timeout cancels the hook, which `use_span` does not take for an exception
        if not isinstance(error, Exception):
            span.set_status(Status(StatusCode.ERROR, "no answer within its timeout, or the stream ended"))
        raise
    finally:
        span.end()


def _finished(span: trace.Span, result: Any) -> Any:
    _noted(span, result)
    span.end()
    return result


def _noted(span: trace.Span, result: Any) -> Any:
    if isinstance(result, ImmediateResponse):
        span.set_attribute("policy_engine.action", "immediate_response")
        span.set_attribute("http.response.status_code", result.status)
    elif result is not None:
        span.set_attribute("policy_engine.action", "mutation")
    return result
