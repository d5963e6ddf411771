"""Changes JSON bodies by a list of operations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from policy_body import NotJson, dump, essence_of, is_denial, matches_media, parse, problem
from policy_engine.sdk import (
    Headers,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestAction,
    RequestMutation,
    Response,
    ResponseAction,
    ResponseMutation,
)

from .operations import Missing, Operation, operation

_Action = TypeVar("_Action")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a body cannot be changed: words for the client, and a constant for Envoy's log."""

    detail: str
    reason: str


class JsonTransform(Policy):
    """Gives the upstream or the client a changed document; the engine keeps `content-length` right."""

    def __init__(self, parameters: Parameters) -> None:
        sides = ("request", "response")
        self._operations = {side: _operations(parameters.get(side, {}), f"/{side}") for side in sides}
        if not any(self._operations.values()):
            raise ParameterError("operations for request or response are expected")
        self.idle_phases = {f"{side}_body" for side in sides if not self._operations[side]}
        self._media = tuple(parameters.get("content_types", ("application/json", "application/*+json")))
        self._refuses = parameters.get("not_json", "pass") == "refuse"
        self._depth = parameters.get("max_depth", 64)
        self._statuses = frozenset(parameters.get("response", {}).get("statuses", ("2xx",)))

    def on_request_body(self, request: Request) -> RequestAction | Awaitable[RequestAction | None] | None:
        """Change the request's body."""
        return self._worked("request", request.headers, request.body, request, _for_upstream)

    def on_response_body(
        self, request: Request, response: Response
    ) -> ResponseAction | Awaitable[ResponseAction | None] | None:
        """Change the response's body."""
        status = response.status
        if is_denial(response) or self._statuses.isdisjoint((str(status), f"{status // 100}xx")):
            return None
        return self._worked("response", response.headers, response.body, request, _for_client)

    def _worked(
        self,
        side: str,
        headers: Headers,
        body: bytes | None,
        request: Request,
        answer: Callable[[bytes | Refusal | None], _Action],
    ) -> _Action | Awaitable[_Action]:
        if not body:
            return answer(None)
        essence = essence_of(headers)
        if essence is None:
            # Not "another type": the upstream or the client may read JSON in it that was to be changed.
            return answer(Refusal("The content type cannot be read.", "not_json"))
        if not matches_media(essence, self._media):
            return answer(self._not_json("The content type is not JSON."))
        values = [one.read(request) for one in self._operations[side]]
        return self.offload_large(self._changed, side, body, values, then=answer)

    def _changed(self, side: str, body: bytes, values: list[Any]) -> bytes | Refusal | None:
        """Return the new body, None when it stays as it is; `values` are those of the operations."""
        try:
            document = parse(body, self._depth)
        except NotJson as error:
            return self._not_json(f"The body is not valid JSON: {error}.")
        before = dump(document)
        for one, value in zip(self._operations[side], values, strict=True):
            try:
                document = one.changed(document, value)
            except Missing as missing:
                return Refusal(f"The body, or the request, lacks what belongs at {missing}.", "path_missing")
        after = dump(document)
        return None if after == before else after

    def _not_json(self, detail: str) -> Refusal | None:
        return Refusal(detail, "not_json") if self._refuses else None


def _for_upstream(found: bytes | Refusal | None) -> RequestAction | None:
    if isinstance(found, Refusal):
        unsupported = found.reason == "not_json"
        status, title = (415, "Unsupported Media Type") if unsupported else (422, "Unprocessable Content")
        return problem(status, title, found.detail, reason=f"json_transform_{found.reason}")
    return None if found is None else RequestMutation(body=found)


def _for_client(found: bytes | Refusal | None) -> ResponseAction | None:
    if isinstance(found, Refusal):
        detail = "The upstream's response is not of the expected form."
        return problem(502, "Bad Gateway", detail, reason=f"json_transform_response_{found.reason}")
    return None if found is None else ResponseMutation(body=found)


def _operations(side: Mapping[str, Any], where: str) -> tuple[Operation, ...]:
    entries = side.get("operations", ())
    return tuple(operation(entry, f"{where}/operations/{index}") for index, entry in enumerate(entries))
