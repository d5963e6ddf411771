"""Hides personal data in bodies and headers of responses, and of requests when asked to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Any

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
    RequestMutation,
    Response,
    ResponseMutation,
    header_name,
)

from .body import BodyMasker, Settings, Unmaskable, body_masker
from .detectors import BUILT_IN, Detector, custom
from .document import masked, places
from .masker import Masker, Style, full, hashed, keep_last

_log = logging.getLogger("policy.pii-masking")
_LARGE = 32 * 1024  # bytes: masking more takes milliseconds, which belong into a thread
_Streams = dict[str, tuple[BodyMasker | None, bytearray]]  # what is under way, by side
_IDENTITY = {"accept-encoding": "identity"}


class PiiMasking(Policy):
    """Masks what it finds; a body that it should look at and cannot is not passed on unless the operator said so."""

    def __init__(self, parameters: Parameters) -> None:
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
        self._settings = Settings(
            masker,
            lambda value: masked(value, masker.mask, include, exclude),
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

    def on_request_body(
        self, request: Request
    ) -> RequestMutation | ImmediateResponse | Awaitable[RequestMutation | ImmediateResponse | None] | None:
        """Mask a whole request body; in a thread when it is large."""
        body = request.body or b""

        def work() -> RequestMutation | ImmediateResponse | None:
            try:
                new = self._whole(request.headers, body)
            except Unmaskable as reason:
                self._report(request, "request", str(reason))
                return None if self._passes else _refusal(415, "request", str(reason))
            return None if new is None else RequestMutation(body=new)

        return work() if len(body) <= _LARGE else asyncio.to_thread(work)

    def on_response_body(
        self, request: Request, response: Response
    ) -> ResponseMutation | ImmediateResponse | Awaitable[ResponseMutation | ImmediateResponse | None] | None:
        """Mask a whole response body; in a thread when it is large."""
        body = response.body or b""

        def work() -> ResponseMutation | ImmediateResponse | None:
            try:
                new = self._whole(response.headers, body)
            except Unmaskable as reason:
                self._report(request, "response", str(reason))
                return None if self._passes else _refusal(502, "response", str(reason))
            return None if new is None else ResponseMutation(body=new)

        return work() if len(body) <= _LARGE else asyncio.to_thread(work)

    def on_request_chunk(self, request: Request, chunk: Chunk) -> ChunkMutation | ImmediateResponse | None:
        """Mask a piece of the request body; what cannot be looked at is answered with 415."""
        try:
            return self._piece(request, "request", request.headers, chunk)
        except Unmaskable as reason:
            self._report(request, "request", str(reason))
            return self._given_up(request, "request", chunk) or _refusal(415, "request", str(reason))

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> ChunkMutation | None:
        """Mask a piece of the response body; what cannot be looked at ends here, as the status has been sent."""
        try:
            return self._piece(request, "response", response.headers, chunk)
        except Unmaskable as reason:
            self._report(request, "response", str(reason))
            return self._given_up(request, "response", chunk) or ChunkMutation(b"", end=True)

    def _whole(self, headers: Headers, body: bytes) -> bytes | None:
        if not body:
            return None
        work = body_masker(self._settings, headers, decoded=True)
        if work is None:
            return None
        new = work.feed(body, end=True)
        return None if new == body else new

    def _piece(self, request: Request, side: str, headers: Headers, chunk: Chunk) -> ChunkMutation | None:
        state: _Streams = self.state(request)
        if side not in state:
            state[side] = (None, bytearray())
            state[side] = (body_masker(self._settings, headers, decoded=False), bytearray())
        work, held = state[side]
        if work is None:
            return None
        if self._passes:
            held += chunk.data  # what goes on as it is when the body turns out to be none we can read
        new = work.feed(chunk.data, end=chunk.end)
        if new:
            held.clear()
        return ChunkMutation(new)

    def _given_up(self, request: Request, side: str, chunk: Chunk) -> ChunkMutation | None:
        """Return what was held back, when the operator lets such bodies pass, and look no further."""
        if not self._passes:
            return None
        state: _Streams = self.state(request)
        held = bytes(state[side][1]) or chunk.data
        state[side] = (None, bytearray())
        return ChunkMutation(held)

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

    def _report(self, request: Request, side: str, reason: str) -> None:
        facts = {"direction": side, "reason": reason, "passed": self._passes}
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


def _refusal(status: int, side: str, reason: str) -> ImmediateResponse:
    title = "Unsupported Media Type" if status == 415 else "Bad Gateway"
    return problem(status, title, f"The {side} body cannot be checked.", reason=f"pii_unmaskable_{reason}")
