"""One ext_proc stream: checks the order of its messages, finds its chain, and hands each message to its phase.

It knows no transport (bytes in, bytes out; see `kernel.stream`) and shares nothing but the kernel with other streams.
Message order follows envoy/service/ext_proc/v3/external_processor.proto.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from google.protobuf.message import DecodeError

from policy_engine.kernel.body_phase import body
from policy_engine.kernel.denial import answer_to
from policy_engine.kernel.envoy_facts import EnvoyFacts
from policy_engine.kernel.header_limits import refusal
from policy_engine.kernel.header_view import headers_of
from policy_engine.kernel.headers_phase import request_headers, response_headers
from policy_engine.kernel.kernel import Kernel
from policy_engine.kernel.later import Result
from policy_engine.kernel.origin import origin_of
from policy_engine.kernel.phases import Phases
from policy_engine.kernel.promises import doubt
from policy_engine.kernel.reply import headers_reply, immediate_reply, passed_reply, trailers_reply
from policy_engine.kernel.route_key import has_no_route
from policy_engine.kernel.routes import Modes, Route, Routes, StaticModes
from policy_engine.kernel.stream import Peer, StreamError
from policy_engine.kernel.trailers_phase import trailers
from policy_engine.sdk import Headers, ImmediateResponse, Request
from policy_engine.sdk.headers import apply_edit
from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.worker.chains.closing import leave
from policy_engine.worker.chains.needs import NOTHING_ASKED
from policy_engine.worker.chains.spec import Unmapped

repeated = RepeatedLines(logging.getLogger("policy_engine.kernel"))

_NOT_READY = ImmediateResponse(503, details="policy_engine:not_ready")
_NO_ROUTE = ImmediateResponse(404, details="policy_engine:no_route")
_UNMAPPED = ImmediateResponse(500, details="policy_engine:unmapped_route")
_LOGGED_KEY = 200
_INVALID_ARGUMENT = 3
_parse = ext_proc.ProcessingRequest.FromString
_PASS_REQUEST_HEADERS = headers_reply("request_headers")
_PASS_RESPONSE_HEADERS = headers_reply("response_headers")

# Where a message may stand: each part's rank must not fall, and headers come once per direction.
_REQUEST, _RESPONSE = 1, 2


class Session:
    """One stream from its first message to its end. Not thread-safe: it belongs to its transport's event loop."""

    __slots__ = ("_alike", "_closed", "_ended", "_kernel", "_modes", "_peer", "_phases", "_side")

    def __init__(self, kernel: Kernel, peer: Peer) -> None:
        self._kernel = kernel
        self._peer = peer
        self._phases: Phases | None = None
        self._alike: tuple[Route, Modes, Any] | None = None
        """Of a stream that gets what all of its route get: that, and its first message."""
        self._modes: StaticModes = (0, 0)
        self._side = 0
        self._ended = False
        self._closed = False
        kernel.statistics.streams += 1
        kernel.statistics.active += 1

    def receive(self, message: bytes) -> Result:
        """Take one serialised `ProcessingRequest`; see `StreamHandler.receive`."""
        try:
            request = _parse(message)
        except DecodeError:
            raise self._refuse("not a ProcessingRequest message") from None
        part = request.WhichOneof("request")
        if part is None:
            raise self._refuse("a ProcessingRequest without a request in it")
        self._kernel.statistics.phases[part] += 1
        phases = self._phases
        if self._ended or (phases is not None and phases.ended):
            # In full duplex Envoy does not wait for replies: what was on its way when we answered for good is no error.
            return None
        if self._side == 0:
            return self._first(part, request, len(message))
        if self._side == _REQUEST and part.startswith("response"):
            unannounced = phases is not None and phases.probing
            if part != "response_headers" and not unannounced:
                raise self._refuse(f"{part} out of order")
            self._side = _RESPONSE
        elif part.endswith("_headers"):
            raise self._refuse(f"{part} out of order")
        if phases is None:
            if part == "response_headers" and self._alike is not None:
                return self._same_response(*self._alike, request.response_headers.headers, len(message))
            return self._passed(part, request)
        if part == "response_headers" and len(message) > self._kernel.short_headers:
            headers, size = request.response_headers.headers, len(message)
            refused = refusal(self._kernel, phases.route, part, headers, size, phases.request.headers)
            if refused is not None:
                return phases.refuse(refused)
        if part == "response_headers":
            return response_headers(phases, request.response_headers, origin_of(request))
        return _PHASES[part](phases, getattr(request, part))

    def close(self) -> None:
        """The stream is over: let go of the chain."""
        if self._closed:
            return
        self._closed = True
        self._kernel.statistics.active -= 1
        if self._phases is not None:
            self._phases.close()
        elif self._alike is not None:
            leave(self._alike[0].chain)

    def _passed(self, part: str, request: Any) -> Result:
        """Let a message pass that no chain looks at."""
        if not part.endswith("_body"):
            return _PASS[part]
        return passed_reply(part, self._modes[part == "response_body"], getattr(request, part))

    def _first(self, part: str, message: Any, size: int) -> Result:
        kernel = self._kernel
        config = message.protocol_config
        self._modes = config.request_body_mode, config.response_body_mode
        if part == "response_headers":
            # Envoy answered by itself before the request reached this filter (a local reply): no chain to run.
            self._side = _RESPONSE
            return _PASS_RESPONSE_HEADERS
        if part != "request_headers":
            raise self._refuse(f"{part} as the first message of a stream")
        self._side = _REQUEST
        routes = kernel.routes
        if routes is None:
            kernel.statistics.not_ready += 1
            return self._deny(_NOT_READY, headers_of(message.request_headers.headers))
        key = kernel.options.route_key.find(message)
        passes = kernel.options.pass_unmapped
        route = routes.get(key)
        if route is None or (not key and not passes and has_no_route(message, kernel.options.route_key)):
            self._trace_unmapped(key, message, passes=passes)
            if not passes and has_no_route(message, kernel.options.route_key):
                return self._without_route(message)
            return self._unmapped(routes, key, headers_of(message.request_headers.headers), passes=passes)
        route.requests.value += 1
        modes = route.modes_for(self._modes)
        if not route.chain.policies:
            if route.chain.unmapped is not None:
                passes = route.chain.unmapped is Unmapped.PASS
                self._trace_unmapped(key, message, passes=passes)
                headers = headers_of(message.request_headers.headers)
                return self._unmapped(routes, key, headers, passes=passes, route=route)
            return modes.request.pass_reply
        if modes.constant is not None and size <= kernel.short_headers and not self._is_watched(route):
            # Nothing is read of the request, and nothing kept but itself.
            self._alike = route, modes, message
            route.chain.usage.streams += 1
            return modes.constant[0].answer()
        headers = message.request_headers
        header_map = headers.headers
        view = headers_of(header_map)
        if size > kernel.short_headers:
            refused = refusal(kernel, route, part, header_map, size, view)
            if refused is not None:
                return self._deny(refused, view, route)
        phases = self._phases = self._begun(route, modes, key, message, view)
        return request_headers(phases, bodiless=headers.end_of_stream)

    def _begun(self, route: Route, modes: Modes, key: str, message: Any, view: Headers) -> Phases:
        """Return the stream's phases; `message` is its first, with the headers of which there is a `view`."""
        # Not a closure: that would make cells of what all of this method uses.
        request = Request(view, route=key, facts=partial(EnvoyFacts, message, route.chain.needs.asked))
        return Phases(self._kernel, route, modes, request, self._peer)

    def _is_watched(self, route: Route) -> bool:
        """Return whether somebody is to see the request although no policy has to."""
        return self._kernel.tracing is not None or bool(route.chain.stream_end)

    def _same_response(self, route: Route, modes: Modes, first: Any, header_map: Any, size: int) -> Result:
        """Answer a response that gets what all get, unless its headers are over a limit."""
        kernel = self._kernel
        if modes.constant is None:
            return _PASS_RESPONSE_HEADERS
        request, response = modes.constant
        if size > kernel.short_headers:
            view = headers_of(first.request_headers.headers)
            refused = refusal(kernel, route, "response_headers", header_map, size, view)
            if refused is not None:
                key = kernel.options.route_key.find(first)
                phases = self._phases = self._begun(route, modes, key, first, view)
                leave(route.chain)  # which the phases have entered for themselves
                for edit in request.edits:
                    apply_edit(view, edit)
                return phases.refuse(refused)
        if modes.skips_response_headers:
            doubt(self._peer)
        return response.answer()

    def _trace_unmapped(self, key: str, message: Any, *, passes: bool) -> None:
        """Give the caller's trace a span that tells why the request ended here."""
        tracing = self._kernel.tracing
        if tracing is None or passes:
            return
        headers = headers_of(message.request_headers.headers)
        span = tracing.begin(Request(headers, route=key, facts=partial(EnvoyFacts, message, NOTHING_ASKED)))
        if span is not None:
            tracing.answered(span, _UNMAPPED)
            tracing.end(span)

    def _unmapped(
        self, routes: Routes, key: str, headers: Headers, *, passes: bool, route: Route | None = None
    ) -> Result:
        """Let a request without a chain pass, or deny it; `route` is the one that says so of its keys."""
        kernel = self._kernel
        kernel.statistics.unmapped += 1
        if passes:
            return _PASS_REQUEST_HEADERS
        if route is not None:
            repeated.log(
                logging.WARNING,
                route.chain.route_key,
                "route key %.200r is denied: the route %r is written as unmapped",
                key,
                route.chain.route_key,
                extra={
                    "event": "unmapped_route",
                    "route": key[:_LOGGED_KEY],
                    "request_id": headers.get("x-request-id") or "",
                },
            )
            return self._deny(_UNMAPPED, headers, route)
        # Finding near names costs more than the rest of the denial.
        if repeated.due(key):
            repeated.say(
                logging.ERROR,
                key,
                "route key %.200r (attribute %s) has no chain, request denied; nearest known keys: %s",
                key,
                kernel.options.route_key,
                ", ".join(routes.nearest(key)) or "none",
                extra={
                    "event": "unmapped_route",
                    "route": key[:_LOGGED_KEY],
                    "request_id": headers.get("x-request-id") or "",
                },
            )
        return self._deny(_UNMAPPED, headers, key=key)

    def _without_route(self, message: Any) -> Result:
        """Answer as Envoy would have, had it not asked: a 404 opens nothing where `request_attributes` is wrong."""
        kernel, headers = self._kernel, headers_of(message.request_headers.headers)
        kernel.statistics.unmapped += 1
        repeated.log(
            logging.INFO,
            None,
            "a request without a route was denied with 404; if it should have one, see that request_attributes of the "
            "filter holds %s",
            kernel.options.route_key,
            extra={"event": "no_route", "request_id": headers.get("x-request-id") or ""},
        )
        return self._deny(_NO_ROUTE, headers)

    def _deny(
        self, response: ImmediateResponse, headers: Headers, route: Route | None = None, *, key: str = ""
    ) -> bytes:
        """Answer for good; `route` is the one found, `key` what was looked for where there is none."""
        self._ended = True
        kernel = self._kernel
        errors = kernel.options.errors
        if route is not None:
            errors, key = route.chain.errors or errors, route.chain.route_key
        # A key without a chain comes from outside: there may be any number of them.
        kernel.statistics.denials.count(key if route is not None else "", None, response)
        if kernel.decisions is not None:
            response = kernel.decisions.refused(response, key, headers)
        answer = answer_to(headers, response, errors, route=key if route is not None else "")
        return immediate_reply(answer, (), (response,))

    def _refuse(self, reason: str) -> StreamError:
        self._kernel.statistics.protocol_errors += 1
        self._ended = True
        return StreamError(_INVALID_ARGUMENT, reason)


_PHASES: dict[str, Callable[[Phases, Any], Result]] = {
    "request_body": lambda phases, message: body(phases, phases.modes.request, message),
    "request_trailers": lambda phases, message: trailers(phases, phases.modes.request, message),
    "response_body": lambda phases, message: body(phases, phases.modes.response, message),
    "response_trailers": lambda phases, message: trailers(phases, phases.modes.response, message),
}

_PASS: dict[str, bytes] = {
    "request_trailers": trailers_reply("request_trailers"),
    "response_headers": _PASS_RESPONSE_HEADERS,
    "response_trailers": trailers_reply("response_trailers"),
}
