"""Changes JSON bodies by a list of operations."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from policy_body import NotJson, dump, matches_media, parse, problem
from policy_engine.sdk import (
    Headers,
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
    UnreadableHeader,
    media_type,
)

from .operations import Change, Missing, operation


class _Refusal(Exception):
    """Why a body cannot be changed: words for the client, and a constant for Envoy's log."""

    def __init__(self, detail: str, reason: str) -> None:
        super().__init__(reason)
        self.detail = detail
        self.reason = reason


class JsonTransform(Policy):
    """Gives the upstream or the client a changed document; the engine keeps `content-length` right."""

    def __init__(self, parameters: Parameters) -> None:
        self._changes = {side: _changes(parameters.get(side, {}), f"/{side}") for side in ("request", "response")}
        if not any(self._changes.values()):
            raise ParameterError("operations for request or response are expected")
        self.idle_phases = {f"{side}_body" for side, changes in self._changes.items() if not changes}
        self._media = tuple(parameters.get("content_types", ("application/json", "application/*+json")))
        self._refuses = parameters.get("not_json", "pass") == "refuse"
        self._depth = parameters.get("max_depth", 64)
        self._statuses = frozenset(parameters.get("response", {}).get("statuses", ("2xx",)))

    def on_request_body(self, request: Request) -> RequestMutation | ImmediateResponse | None:
        """Change the request's body."""
        try:
            body = self._changed("request", request.headers, request.body or b"", request)
        except _Refusal as why:
            status, title = (
                (415, "Unsupported Media Type") if why.reason == "not_json" else (422, "Unprocessable Content")
            )
            return problem(status, title, why.detail, reason=f"json_transform_{why.reason}")
        return None if body is None else RequestMutation(body=body)

    def on_response_body(self, request: Request, response: Response) -> ResponseMutation | ImmediateResponse | None:
        """Change the response's body."""
        status = response.status
        if self._statuses.isdisjoint((str(status), f"{status // 100}xx")):
            return None
        try:
            body = self._changed("response", response.headers, response.body or b"", request)
        except _Refusal as why:
            detail = "The upstream's response is not of the expected form."
            return problem(502, "Bad Gateway", detail, reason=f"json_transform_response_{why.reason}")
        return None if body is None else ResponseMutation(body=body)

    def _changed(self, side: str, headers: Headers, body: bytes, request: Request) -> bytes | None:
        if not body:
            return None
        try:
            found = media_type(headers)
        except UnreadableHeader:
            # Not "another type": the upstream or the client may read JSON in it that was to be changed.
            raise _Refusal("The content type cannot be read.", "not_json") from None
        if found is None or not matches_media(found.essence, self._media):
            self._not_json("The content type is not JSON.")
            return None
        try:
            before = parse(body, self._depth)
        except NotJson as error:
            self._not_json(f"The body is not valid JSON: {error}.")
            return None
        document = copy.deepcopy(before)
        for change in self._changes[side]:
            try:
                document = change(document, request)
            except Missing as missing:
                raise _Refusal(f"The body, or the request, lacks what belongs at {missing}.", "path_missing") from None
        after = dump(document)
        return None if after == dump(before) else after

    def _not_json(self, detail: str) -> None:
        if self._refuses:
            raise _Refusal(detail, "not_json")


def _changes(side: Mapping[str, Any], where: str) -> tuple[Change, ...]:
    entries = side.get("operations", ())
    return tuple(operation(entry, f"{where}/operations/{index}") for index, entry in enumerate(entries))
