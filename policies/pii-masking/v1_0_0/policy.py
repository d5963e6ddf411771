"""Hides personal data in bodies and headers of responses, and of requests when asked to."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from policy_body import problem
from policy_engine.sdk import (
    Chunk,
    ChunkMutation,
    Headers,
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestAction,
    RequestChunkAction,
    RequestMutation,
    Response,
    ResponseAction,
    ResponseMutation,
    header_name,
)

from .body import Bodies, JsonBody, TextBody, Unmaskable
from .detectors import BUILT_IN, Detector, custom
from .document import places
from .masker import Masker, Style, full, hashed, keep_last

_log = logging.getLogger("policy.pii-masking")
_Action = TypeVar("_Action")
_ChunkAction = TypeVar("_ChunkAction")
_IDENTITY = {"accept-encoding": "identity"}


class PiiMasking(Policy):
    """Masks what it finds; a body that it should look at and cannot is not passed on unless the operator said so."""

    offload_above = 4 * 1024
    """The dearest text (near misses of card numbers) takes 1.5 microseconds a character."""

    def __init__(self, parameters: Parameters) -> None:
        # Each line is searched for each pattern anew, which costs as much as so many characters.
        self._line = 16 * (1 + len(parameters.get("patterns", ())))
        directions = parameters.get("directions", ("response",))
        headers = parameters.get("headers", {})
        self._headers = {side: _names(headers.get(side, ()), f"/headers/{side}") for side in ("request", "response")}
        self._response_body = "response" in directions
        idle = {f"{side}_body" for side in ("request", "response") if side not in directions}
        if not self._headers["response"]:
            idle.add("response_headers")
        if not self._headers["request"] and not self._response_body:
            idle.add("request_headers")
        self.idle_phases = idle
        self._passes = parameters.get("unmaskable", "refuse") == "pass"
        masker = Masker(_detectors(parameters), _style(parameters))
        pointers = parameters.get("json_pointers", {})
        include = places(pointers.get("include", ()), "/json_pointers/include")
        exclude = places(pointers.get("exclude", ()), "/json_pointers/exclude")
        self._masker = masker
        self._bodies = Bodies(
            masker,
            include,
            exclude,
            tuple(parameters.get("json_types", ("application/json", "application/*+json"))),
            tuple(parameters.get("text_types", ("text/*", "application/x-ndjson"))),
            parameters.get("max_json_bytes", 1048576),
        )

    def on_request_headers(self, request: Request) -> RequestMutation | None:
        """Mask headers, and ask for a response that is not compressed, as chunks of one could not be read."""
        changed, more = self._changed(request.headers, "request")
        if self._response_body:
            changed = changed | _IDENTITY
        return RequestMutation(set_headers=changed, append_headers=more) if changed else None

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation | None:
        """Mask headers."""
        changed, more = self._changed(response.headers, "response")
        return ResponseMutation(set_headers=changed, append_headers=more) if changed else None

    def on_request_body(self, request: Request) -> RequestAction | Awaitable[RequestAction | None] | None:
        """Mask a whole request body."""
        body = request.body or b""

        def answer(new: bytes | Unmaskable | None) -> RequestAction | None:
            if isinstance(new, Unmaskable):
                self._report(request, "request", new)
                return None if self._passes else _refusal(415, "request", new)
            return None if new is None or new == body else RequestMutation(body=new)

        return self._whole(request.headers, body, answer)

    def on_response_body(
        self, request: Request, response: Response
    ) -> ResponseAction | Awaitable[ResponseAction | None] | None:
        """Mask a whole response body."""
        body = response.body or b""

        def answer(new: bytes | Unmaskable | None) -> ResponseAction | None:
            if isinstance(new, Unmaskable):
                self._report(request, "response", new)
                return None if self._passes else _refusal(502, "response", new)
            return None if new is None or new == body else ResponseMutation(body=new)

        return self._whole(response.headers, body, answer)

    def on_request_chunk(
        self, request: Request, chunk: Chunk
    ) -> RequestChunkAction | Awaitable[RequestChunkAction | None] | None:
        """Mask a piece of the request body; what cannot be looked at is answered with 415."""
        return self._piece(request, "request", request.headers, chunk, lambda reason: _refusal(415, "request", reason))

    def on_response_chunk(
        self, request: Request, response: Response, chunk: Chunk
    ) -> ChunkMutation | Awaitable[ChunkMutation | None] | None:
        """Mask a piece of the response body; what cannot be looked at ends here, as the status has been sent."""
        return self._piece(request, "response", response.headers, chunk, lambda _: ChunkMutation(b"", end=True))

    def _whole(
        self, headers: Headers, body: bytes, answer: Callable[[bytes | Unmaskable | None], _Action]
    ) -> _Action | Awaitable[_Action]:
        try:
            state = self._bodies.begun(headers, decoded=True)
        except Unmaskable as reason:
            return answer(reason)
        if state is None or not body:
            return answer(None)
        if isinstance(state, TextBody):
            if not state.takes(body):
                return answer(Unmaskable("charset"))
            return self.offload_large(
                self._mask_text,
                *(state.codec, b"", "", body, True),
                then=lambda found: answer(found[0]),
                size=self._work("", body),
            )
        if len(body) > self._bodies.max_json_bytes:
            return answer(Unmaskable("json_too_large"))
        return self.offload_large(self._mask_document, body, then=answer)

    def _piece(
        self,
        request: Request,
        side: str,
        headers: Headers,
        chunk: Chunk,
        refuse: Callable[[Unmaskable], _ChunkAction],
    ) -> ChunkMutation | _ChunkAction | Awaitable[ChunkMutation | _ChunkAction] | None:
        # By side; None for a body that is not looked at (any more).
        states: dict[str, TextBody | JsonBody | None] = self.state(request)

        def give_up(reason: Unmaskable, held: bytes) -> ChunkMutation | _ChunkAction:
            """Look no further; what was held back goes on where the operator lets such bodies pass."""
            states[side] = None
            self._report(request, side, reason)
            return ChunkMutation(held) if self._passes else refuse(reason)

        if side not in states:
            try:
                states[side] = self._bodies.begun(headers, decoded=False)
            except Unmaskable as reason:
                return give_up(reason, chunk.data)
        state = states[side]
        if state is None:
            return None
        if isinstance(state, TextBody):
            text = state
            if not text.takes(chunk.data):
                return give_up(Unmaskable("charset"), text.rest() + chunk.data)

            def go_on(found: tuple[bytes, bytes, str]) -> ChunkMutation:
                data, text.cut, text.held = found
                return ChunkMutation(data)

            return self.offload_large(
                self._mask_text,
                *(text.codec, text.cut, text.held, chunk.data, chunk.end),
                then=go_on,
                size=self._work(text.held, chunk.data),
            )
        state.held += chunk.data
        if len(state.held) > self._bodies.max_json_bytes:
            return give_up(Unmaskable("json_too_large"), bytes(state.held))
        if not chunk.end:
            return ChunkMutation(b"")
        raw = bytes(state.held)
        return self.offload_large(
            self._mask_document,
            raw,
            then=lambda found: give_up(found, raw) if isinstance(found, Unmaskable) else ChunkMutation(found),
        )

    def _work(self, held: str, data: bytes) -> int:
        return len(held) + len(data) + self._line * data.count(b"\n")

    def _mask_text(self, codec: str, cut: bytes, held: str, data: bytes, end: bool) -> tuple[bytes, bytes, str]:
        return self._bodies.text(codec, cut, held, data, end)

    def _mask_document(self, raw: bytes) -> bytes | Unmaskable:
        return self._bodies.document(raw)

    def _changed(self, headers: Headers, side: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
        """Return the headers to set and, for those with several values, to append."""
        first: dict[str, str] = {}
        more: list[tuple[str, str]] = []
        for name in self._headers[side]:
            values = headers.get_all(name)
            new = [self._masker.mask(value).strip(" \t") for value in values]
            if tuple(new) != values:
                first[name] = new[0]
                more += [(name, value) for value in new[1:]]
        return first, more

    def _report(self, request: Request, side: str, reason: Unmaskable) -> None:
        facts = {"direction": side, "reason": str(reason), "passed": self._passes}
        extra = {"event": "unmaskable", "request_id": request.id or None, "route": request.route, "fields": facts}
        _log.warning("a %s body cannot be masked: %s", side, reason, extra=extra)


def _detectors(parameters: Parameters) -> list[tuple[str, Detector]]:
    chosen = [(name, BUILT_IN[name]) for name in parameters.get("detect", tuple(BUILT_IN))]
    for index, entry in enumerate(parameters.get("patterns", ())):
        chosen.append((entry["name"], custom(entry["pattern"], f"/patterns/{index}/pattern")))
    if not chosen:
        raise ParameterError("nothing to find: detect or patterns is needed", "/detect")
    return chosen


def _style(parameters: Parameters) -> Style:
    style: Mapping[str, Any] = parameters.get("mask", {})
    kind = style.get("style", "full")
    if kind == "hash":
        if "salt" not in style:
            raise ParameterError("style hash needs a salt", "/mask/salt")
        return hashed(style["salt"])
    return keep_last(style.get("keep", 4)) if kind == "keep_last" else full(style.get("label", "***"))


def _names(names: Any, where: str) -> tuple[str, ...]:
    found = []
    for index, name in enumerate(names):
        try:
            found.append(header_name(name))
        except ValueError as error:
            raise ParameterError(str(error), f"{where}/{index}") from None
    return tuple(found)


def _refusal(status: int, side: str, reason: Unmaskable) -> ImmediateResponse:
    title = "Unsupported Media Type" if status == 415 else "Bad Gateway"
    return problem(status, title, f"The {side} body cannot be checked.", reason=f"pii_unmaskable_{reason}")
