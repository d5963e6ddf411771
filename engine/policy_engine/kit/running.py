"""Runs an exchange through a chain of policies: the engine's kernel between a client and an upstream in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from policy_engine.kernel.header_lines import HeaderLines, HeaderValues, Part, lines_of
from policy_engine.kernel.kernel import Kernel, KernelOptions
from policy_engine.kernel.origin import RESPONSE_DETAILS
from policy_engine.kernel.reply import ProcessingMode
from policy_engine.kernel.route_key import ROUTE_NAME, SOURCE_ADDRESS
from policy_engine.kernel.routes import processing_mode
from policy_engine.kernel.session import Session
from policy_engine.kernel.stream import Peer
from policy_engine.kit.chain import ChainEntry, KitChain
from policy_engine.kit.exchange import EnvoyStream, HttpMessage, without_body
from policy_engine.kit.making import response as make_response
from policy_engine.kit.outcome import Outcome
from policy_engine.sdk import Headers, ImmediateResponse, Policy, Request, Response, ResponseOrigin
from policy_engine.sdk.attributes import AttributeValue
from policy_engine.worker.chains.compiled import Condition, Snapshot
from policy_engine.worker.chains.compiler import Compiler
from policy_engine.worker.chains.needs import Asked
from policy_engine.worker.policies.registry import Registry

Upstream = Response | Callable[[Request], Response]
Chain = Policy | ChainEntry | Sequence[Policy | ChainEntry]

# Why Envoy says that there is this response; "direct_response" stands for all that it makes itself.
_DETAILS: dict[ResponseOrigin, str] = {"upstream": "via_upstream", "envoy": "direct_response", "policy": ""}

_LONGEST_RUN = 60.0  # seconds: a policy that never answers must fail its test, not hang it


def run(
    policies: Chain,
    request: Request,
    response: Upstream | None = None,
    *,
    request_chunks: Sequence[bytes] | None = None,
    response_chunks: Sequence[bytes] | None = None,
    request_trailers: HeaderValues | None = None,
    response_trailers: HeaderValues | None = None,
) -> Outcome:
    """Send `request` through the chain and `response` (200 without a body unless given) back through it.

    `response` may also be a function of the request as sent upstream; the body of a response to HEAD, and of one with
    status 204 or 304, does not exist and is left out. `request_chunks` and `response_chunks` are bodies that arrive
    piece by piece: they are streamed (in full duplex) when all policies that want the body of that direction have a
    chunk hook, else joined (R-08). The arguments are not changed, so they may be shared between tests; only
    `request.metadata` is.

    Raises what a policy raises, TypeError for an action that does not fit the hook, ValueError for a header that may
    not be set, RuntimeError for a change that comes too late to be sent. Within a running event loop await `run_async`
    instead.
    """
    return asyncio.run(
        run_async(
            policies,
            request,
            response,
            request_chunks=request_chunks,
            response_chunks=response_chunks,
            request_trailers=request_trailers,
            response_trailers=response_trailers,
        )
    )


async def run_async(
    policies: Chain,
    request: Request,
    response: Upstream | None = None,
    *,
    request_chunks: Sequence[bytes] | None = None,
    response_chunks: Sequence[bytes] | None = None,
    request_trailers: HeaderValues | None = None,
    response_trailers: HeaderValues | None = None,
) -> Outcome:
    """Do what `run` does, in the caller's event loop."""
    entries = (policies,) if isinstance(policies, Policy | ChainEntry) else tuple(policies)
    compiler = Compiler(Registry())
    try:
        given = Asked(frozenset(request.attributes), frozenset(request.envoy_metadata))
        chain = KitChain(compiler, request.route, entries, _LONGEST_RUN, given)
        exchange = _Exchange(chain, request, (request_chunks is not None, response_chunks is not None))
        try:
            async with asyncio.timeout(_LONGEST_RUN):
                with chain.offloading():
                    outcome = await exchange.run(
                        HttpMessage(
                            "request",
                            HeaderLines(Part.REQUEST_HEADERS, exchange.request_lines()),
                            request.body if request_chunks is None else None,
                            request_chunks,
                            _trailers(Part.REQUEST_TRAILERS, request_trailers),
                        ),
                        response,
                        response_chunks,
                        _trailers(Part.RESPONSE_TRAILERS, response_trailers),
                    )
        finally:
            exchange.close()
        chain.raise_failure()
        outcome.counted = chain.counted()
        return outcome
    finally:
        compiler.close()


class _Exchange:
    """One exchange; also the kernel's tracing, which is how the request that policies see is reached."""

    def __init__(self, chain: KitChain, given: Request, in_pieces: tuple[bool, bool]) -> None:
        self._chain = chain
        self._given = given
        self._immediate: ImmediateResponse | None = None
        kernel = Kernel(KernelOptions(), self)
        kernel.activate(Snapshot("kit", {given.route: chain.compiled}))
        self._session = Session(kernel, Peer())
        duplex, none = ProcessingMode.FULL_DUPLEX_STREAMED, ProcessingMode.NONE
        static = (duplex if in_pieces[0] else none, duplex if in_pieces[1] else none)
        mode = processing_mode(chain.compiled.needs, static)
        self._stream = EnvoyStream(self._session, mode, self._attributes(), given.envoy_metadata)

    async def run(
        self,
        request: HttpMessage,
        upstream: Upstream | None,
        chunks: Sequence[bytes] | None,
        trailers: HeaderLines | None,
    ) -> Outcome:
        """Send the request through, then the upstream's response back."""
        goes_on = await self._stream.request(request)
        sent = self._sent(request)
        if not goes_on:
            return self._outcome(request, sent, None, reached=False)
        given = upstream(sent) if callable(upstream) else upstream or make_response()
        answer = HttpMessage(
            "response",
            HeaderLines(Part.RESPONSE_HEADERS, given.headers.raw_items()),
            attributes={RESPONSE_DETAILS: _DETAILS[given.origin]},
        )
        if not without_body(request.headers, answer.headers):
            answer.body, answer.pieces, answer.trailers = given.body, chunks, trailers
        goes_on = await self._stream.response(answer)
        return self._outcome(request, sent, answer if goes_on else None, reached=True)

    def close(self) -> None:
        """The stream is over."""
        self._session.close()

    def request_lines(self) -> list[tuple[str, bytes]]:
        """The request's headers; Envoy gives every request an `x-request-id`."""
        lines = list(self._given.headers.raw_items())
        if self._given.id and "x-request-id" not in self._given.headers:
            lines.append(("x-request-id", self._given.id.encode()))
        return lines

    def begin(self, request: Request) -> Any:
        """See `Tracing`: the session has made its request, which gets the test's metadata."""
        request.metadata = self._given.metadata
        return self

    def answered(self, span: Any, response: ImmediateResponse) -> None:
        """See `Tracing`: keep the very action that ended the exchange."""
        self._immediate = response

    def end(self, span: Any) -> None:
        """See `Tracing`."""

    def explained(self, condition: Condition, policy: str, version: str) -> Condition:
        """Leave conditions alone: a failure of one is told by its step."""
        return condition

    def around(self, hook: Callable[..., Any], policy: str, version: str, name: str) -> Callable[..., Any]:
        """See `Tracing`; the chain notes its hooks itself."""
        return hook

    def _attributes(self) -> dict[str, AttributeValue]:
        address = self._given.client_address
        host = f"[{address}]" if ":" in address else address
        return {ROUTE_NAME: self._given.route, **({SOURCE_ADDRESS: f"{host}:50000"} if address else {})} | dict(
            self._given.attributes
        )

    def _sent(self, request: HttpMessage) -> Request:
        given = self._given
        return Request(
            request.headers.view(),
            route=given.route,
            request_id=given.id,
            client_address=given.client_address,
            body=request.body,
            metadata=given.metadata,
            attributes=given.attributes,
            envoy_metadata=given.envoy_metadata,
        )

    def _outcome(self, request: HttpMessage, sent: Request, answer: HttpMessage | None, *, reached: bool) -> Outcome:
        stream = self._stream
        immediate = None
        if stream.answer is None and answer is not None:
            head = (":method", b"HEAD") in list(request.headers)
            response = Response(answer.headers.view(), body=None if head else answer.body)
        else:
            self._chain.refuse_late(self._immediate)
            immediate = self._immediate or _action_of(stream.answer)
            response = _local_reply(stream.answer, request.headers)
        return Outcome(
            sent,
            response,
            immediate,
            reached_upstream=reached,
            dynamic_metadata=stream.metadata,
            request_chunks=request.passed,
            response_chunks=answer.passed if answer is not None else [],
            request_trailers=_view(request.trailers),
            response_trailers=_view(answer.trailers) if answer is not None else None,
            steps=self._chain.steps,
        )


def _local_reply(answer: Any, request: HeaderLines) -> Response:
    """Return what the client gets for an immediate response (envoy source/common/http/utility.cc, sendLocalReply)."""
    headers = HeaderLines(Part.RESPONSE_HEADERS, [(":status", str(answer.status.code))])
    headers.mutate(answer.headers)
    if answer.body:
        headers.set("content-length", str(len(answer.body)))
        if "content-type" not in headers:
            headers.set("content-type", "text/plain")
    else:
        headers.remove("content-length")
        headers.remove("content-type")
    head = (":method", b"HEAD") in list(request)
    return Response(headers.view(), body=None if head else answer.body)


def _action_of(answer: Any) -> ImmediateResponse:
    """Return the answer of an engine that refused before there was a chain to run."""
    return ImmediateResponse(answer.status.code, answer.body, details=answer.details)


def _trailers(part: Part, values: HeaderValues | None) -> HeaderLines | None:
    return None if values is None else HeaderLines(part, lines_of(values))


def _view(lines: HeaderLines | None) -> Headers | None:
    return None if lines is None else lines.view()
