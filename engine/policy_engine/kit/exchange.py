"""Envoy's part of one exchange: sends what Envoy would send, and applies the replies as Envoy does.

A separate module because it knows ext_proc and nothing of policies: the engine behind it is the real one.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from google.protobuf.json_format import MessageToDict

from policy_engine.kernel.header_lines import HeaderLines
from policy_engine.kernel.reply import ProcessingMode
from policy_engine.kernel.stream import StreamHandler
from policy_engine.kit import messages
from policy_engine.sdk.attributes import AttributeValue, EnvoyMetadata

_REPLACE = ext_proc.CommonResponse.CONTINUE_AND_REPLACE
_BODILESS_STATUSES = (b"204", b"304")
_DUPLEX = ProcessingMode.FULL_DUPLEX_STREAMED


@dataclass(slots=True)
class HttpMessage:
    """A request or a response on its way through Envoy; what goes on is what is in it at the end.

    `pieces` is a body that arrives piece by piece, `body` one that is whole; `passed` are pieces that went on.
    `attributes` go with the headers of a response.
    """

    side: str
    headers: HeaderLines
    body: bytes | None = None
    pieces: Sequence[bytes] | None = None
    trailers: HeaderLines | None = None
    passed: list[bytes] = field(default_factory=list)
    replaced: bool = False
    over: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def bodiless(self) -> bool:
        """Whether the headers end the message (an empty body goes with `content-length: 0`)."""
        return not self.body and not self.pieces and self.trailers is None

    @property
    def arriving(self) -> Sequence[bytes]:
        """The body as it arrives; empty when there is none."""
        if self.pieces is not None:
            return self.pieces
        return (self.body,) if self.body else ()


class EnvoyStream:
    """One ext_proc stream as Envoy holds it. `mode` is the `ProcessingMode` of its configuration for the route.

    `overrides` is whether Envoy takes the modes that the engine asks for (`allow_mode_override`), `metadata` what
    filters before the engine left.
    """

    def __init__(
        self,
        session: StreamHandler,
        mode: Any,
        attributes: Mapping[str, AttributeValue],
        metadata: EnvoyMetadata | None = None,
        *,
        overrides: bool = True,
    ) -> None:
        self._overrides = overrides
        self._session = session
        self._mode = mode
        self._attributes = attributes
        self._given_metadata = metadata
        self.answer: Any = None
        """The `ImmediateResponse` message that ended the exchange."""
        self.metadata: dict[str, dict[str, Any]] = {}

    async def request(self, message: HttpMessage) -> bool:
        """Send a request through; returns whether it may go on to the upstream."""
        static = (self._mode.request_body_mode, self._mode.response_body_mode)
        first = messages.request_headers(
            message.headers,
            end=message.bodiless,
            attributes=self._attributes,
            metadata=self._given_metadata,
            body_modes=static,
        )
        await self._send(first, message)
        return await self._rest(message, self._mode.request_body_mode, self._mode.request_trailer_mode)

    async def response(self, message: HttpMessage) -> bool:
        """Send a response through; returns whether it may go on to the client."""
        if self._mode.response_header_mode == ProcessingMode.SEND:
            first = messages.response_headers(message.headers, end=message.bodiless, attributes=message.attributes)
            await self._send(first, message)
        return await self._rest(message, self._mode.response_body_mode, self._mode.response_trailer_mode)

    async def _rest(self, message: HttpMessage, body_mode: int, trailer_mode: int) -> bool:
        if self.answer is not None:
            return False
        if message.replaced:  # Envoy drops the body that still comes, and asks nothing more about this message.
            return True
        if body_mode == ProcessingMode.BUFFERED and message.arriving:
            whole = b"".join(message.arriving)
            message.body, message.pieces = whole, None
            await self._send(messages.body(message.side, whole, end=True), message)
        elif body_mode == _DUPLEX:
            await self._stream(message)
        elif message.pieces is not None:
            message.passed = [piece for piece in message.pieces if piece]
        if self.answer is None and message.trailers is not None and trailer_mode == ProcessingMode.SEND:
            await self._send(messages.trailers(message.side, message.trailers), message)
        return self.answer is None

    async def _stream(self, message: HttpMessage) -> None:
        arriving, message.body = message.arriving, None
        if arriving:
            message.headers.remove("content-length")
        for number, piece in enumerate(arriving, 1):
            end = number == len(arriving) and message.trailers is None
            await self._send(messages.body(message.side, piece, end=end), message)
            if self.answer is not None:
                return

    async def _send(self, data: bytes, message: HttpMessage) -> None:
        replies = self._session.receive(data)
        if inspect.isawaitable(replies):
            replies = await replies
        for reply in (replies,) if isinstance(replies, bytes) else replies or ():
            self._apply(ext_proc.ProcessingResponse.FromString(reply), message)

    def _apply(self, reply: Any, message: HttpMessage) -> None:
        if reply.HasField("mode_override") and self._overrides:
            self._mode = reply.mode_override
        for namespace, values in MessageToDict(reply.dynamic_metadata).items():
            self.metadata.setdefault(namespace, {}).update(values)
        kind = reply.WhichOneof("response")
        if kind == "immediate_response":
            self.answer = reply.immediate_response
        elif kind.endswith("_trailers"):
            if message.trailers is not None:
                message.trailers.mutate(getattr(reply, kind).header_mutation)
        else:
            self._change(getattr(reply, kind).response, message)

    def _change(self, common: Any, message: HttpMessage) -> None:
        message.headers.mutate(common.header_mutation)
        changed, body = common.body_mutation.WhichOneof("mutation"), common.body_mutation
        if common.status == _REPLACE:
            message.replaced = True
            message.pieces = None
            message.headers.remove("content-length")
            message.body = body.body
            return
        if changed == "streamed_response":
            self._pass(body.streamed_response, message)
        elif changed is not None:
            message.body = body.body

    @staticmethod
    def _pass(piece: Any, message: HttpMessage) -> None:
        if message.over:
            return
        if piece.body:
            message.passed.append(piece.body)
        message.over = piece.end_of_stream


def without_body(request: HeaderLines, response: HeaderLines) -> bool:
    """Return whether the response to this request cannot have a body (RFC 9110, 6.4.1)."""
    return (":method", b"HEAD") in list(request) or dict(response).get(":status") in _BODILESS_STATUSES
