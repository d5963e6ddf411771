"""The messages of an exchange as they pass: what came, and what goes on once the engine's replies are applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from policy_engine.explain.masking import Masking, clean
from policy_engine.explain.record import MessageRecord
from policy_engine.kernel.header_lines import HeaderLines, Part
from policy_engine.kernel.origin import origin_of
from policy_engine.sdk import Response, ResponseOrigin
from policy_engine.sdk.headers import decode_value

_SIDES = ("request", "response")


class _Body:
    """A body of which the beginning is kept."""

    __slots__ = ("beginning", "size")

    def __init__(self) -> None:
        self.beginning = b""
        self.size: int | None = None

    def add(self, data: bytes, most: int) -> None:
        """Add a piece."""
        self.size = (self.size or 0) + len(data)
        if len(self.beginning) < most:
            self.beginning += data[: most - len(self.beginning)]

    def replace(self, data: bytes, most: int) -> None:
        """Put another body in the place of this one."""
        self.beginning, self.size = data[:most], len(data)


class _Message:
    """One message on its way: `came` is fixed, the rest changes with the replies."""

    __slots__ = ("body", "came", "headers", "origin", "out", "trailers")

    def __init__(self, came: MessageRecord, headers: HeaderLines) -> None:
        self.came = came
        self.headers = headers
        self.body = _Body()
        self.out: _Body | None = None
        """What goes on of the body, once that is another than what came."""
        self.trailers: HeaderLines | None = None
        self.origin: ResponseOrigin | Callable[[], ResponseOrigin] = "upstream"


class Traffic:
    """Both messages of one exchange. `body_limit` is how many characters of a body a record shows."""

    def __init__(self, masking: Masking, body_limit: int) -> None:
        self._masking = masking
        self._limit = body_limit
        self._kept = 4 * body_limit + 1024 if body_limit else 0
        self._messages: dict[str, _Message] = {}
        self._phase = ""
        self.immediate: Any = None
        """The `ImmediateResponse` message that ended the exchange."""

    @property
    def status(self) -> int | None:
        """The status of the response as it goes to the client."""
        message = self._messages.get("response")
        if message is None:
            return None
        text = dict(message.headers).get(":status", b"").decode(errors="replace")
        return int(text) if text.isdecimal() and len(text) < 6 else None

    def response(self) -> Response | None:
        """Return what goes to the client, None when it was not seen."""
        if self.immediate is not None:
            return Response(self._answer_lines().view(), origin="policy")
        message = self._messages.get("response")
        return None if message is None else Response(message.headers.view(), origin=message.origin)

    def came(self, message: Any) -> None:
        """Take a `ProcessingRequest`."""
        part = message.WhichOneof("request") or ""
        side, _, kind = part.partition("_")
        self._phase = side
        content: Any = getattr(message, part) if part else None
        if kind == "headers":
            lines = HeaderLines(
                Part[part.upper()], [(one.key, one.raw_value or one.value.encode()) for one in content.headers.headers]
            )
            self._messages[side] = _Message(MessageRecord(self._shown(lines)), lines)
            self._messages[side].origin = origin_of(message)
        elif side in self._messages and kind == "body":
            self._messages[side].body.add(content.body, self._kept)
        elif side in self._messages and kind == "trailers":
            lines = HeaderLines(
                Part[part.upper()], [(one.key, one.raw_value or one.value.encode()) for one in content.trailers.headers]
            )
            self._messages[side].trailers = lines
            self._messages[side].came.trailers = self._shown(lines)

    def went(self, reply: Any) -> None:
        """Take a `ProcessingResponse`."""
        kind = reply.WhichOneof("response") or ""
        if kind == "immediate_response":
            self.immediate = reply.immediate_response
            return
        message = self._messages.get(kind.partition("_")[0])
        if message is None:
            return
        if kind.endswith("_trailers"):
            if message.trailers is not None:
                message.trailers.mutate(getattr(reply, kind).header_mutation)
            return
        common = getattr(reply, kind).response
        message.headers.mutate(common.header_mutation)
        self._change_body(message, common)

    def _change_body(self, message: _Message, common: Any) -> None:
        changed, body = common.body_mutation.WhichOneof("mutation"), common.body_mutation
        if changed is None:
            return
        if message.out is None:
            message.out = _Body()
        if changed == "streamed_response":
            message.out.add(body.streamed_response.body, self._kept)
        else:
            message.out.replace(body.body if changed == "body" else b"", self._kept)

    def messages(
        self,
    ) -> tuple[MessageRecord | None, MessageRecord | None, MessageRecord | None, MessageRecord | None]:
        """Return request and request as sent, response and answer; None for what there was not, or not seen."""
        request, response = (self._messages.get(side) for side in _SIDES)
        for message in (request, response):
            if message is not None:
                self._fill(message.came, message.body, message.headers)
        denied_early = self.immediate is not None and self._phase == "request"
        sent = None if request is None or denied_early else self._gone(request)
        answer = self._answered() if self.immediate is not None else None if response is None else self._gone(response)
        return (
            None if request is None else request.came,
            sent,
            None if response is None else response.came,
            answer,
        )

    def _gone(self, message: _Message) -> MessageRecord:
        record = MessageRecord(self._shown(message.headers))
        if message.trailers is not None:
            record.trailers = self._shown(message.trailers)
        self._fill(record, message.out or message.body, message.headers)
        return record

    def _answered(self) -> MessageRecord:
        answer, lines = self.immediate, self._answer_lines()
        record = MessageRecord(self._shown(lines))
        if answer.HasField("grpc_status"):
            record.headers.append(("grpc-status", str(answer.grpc_status.status)))
        body = _Body()
        body.replace(bytes(answer.body), max(self._kept, 4096))
        self._fill(record, body, lines, least=1000)
        return record

    def _answer_lines(self) -> HeaderLines:
        lines = HeaderLines(Part.RESPONSE_HEADERS, [(":status", str(int(self.immediate.status.code)))])
        lines.mutate(self.immediate.headers)
        return lines

    def _fill(self, record: MessageRecord, body: _Body, headers: HeaderLines, least: int = 0) -> None:
        record.body_bytes = body.size
        most = max(self._limit, least)
        if body.size and most:
            coding = dict(headers).get("content-encoding", b"").decode(errors="replace")
            if coding and coding != "identity":
                record.body = f"({clean(coding)})"
            else:
                record.body = self._masking.body(body.beginning, most)

    def _shown(self, lines: HeaderLines) -> list[tuple[str, str]]:
        return [(clean(name), self._masking.header(name, decode_value(raw))) for name, raw in lines]
