"""Lets a message through only with a JSON body that its schema allows."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from policy_body import NotJson, essence_of, is_denial, matches_media, parse, problem
from policy_engine.sdk import (
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestAction,
    Response,
    ResponseAction,
)

from .schema import BodySchema, Violation

_log = logging.getLogger("policy.json-schema-validation")
_BEFORE_VALUES = (b",", b"[", b"{")
_NO_BODY = frozenset((204, 205, 304))
_NOT_JSON_TYPE = "the content type is not one that can be checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a body: its type, its syntax or its content."""

    status: int
    title: str
    detail: str
    reason: str
    violations: tuple[Violation, ...] = ()


class JsonSchemaValidation(Policy):
    """A body that breaks its schema: 400, 415 or 422 with a problem document, for a response 502 or a log line."""

    def __init__(self, parameters: Parameters) -> None:
        if "request" not in parameters and "response" not in parameters:
            raise ParameterError("at least one of request and response is expected")
        self.idle_phases = {f"{side}_body" for side in ("request", "response") if side not in parameters}
        self._media = tuple(parameters.get("content_types", ("application/json", "application/*+json")))
        self._depth = parameters.get("max_depth", 64)
        self._most = parameters.get("max_errors", 20)
        self._values = parameters.get("include_values", False)
        request, response = parameters.get("request", {}), parameters.get("response", {})
        formats = parameters.get("check_formats", True)
        self._schemas = {
            "request": _schema(request, "/request", formats=formats),
            "response": _schema(response, "/response", formats=formats),
        }
        self._invalid_status = request.get("invalid_status", 422)
        self._needs_body = frozenset(request.get("body_required_for", ("POST", "PUT", "PATCH")))
        self._others_pass = {
            "request": request.get("other_content_types", "refuse") == "pass",
            "response": response.get("other_content_types", "refuse") == "pass",
        }
        self._reports = response.get("on_violation", "refuse") == "report"
        self._statuses = _statuses(response.get("statuses", ("2xx",)))

    def on_request_body(self, request: Request) -> RequestAction | Awaitable[RequestAction | None] | None:
        """Check the request's body."""
        body = request.body or b""
        if not body and request.method not in self._needs_body:
            return None
        essence = essence_of(request.headers)
        return self.offload_large(self._finding, "request", essence, body, then=self._refusal, size=_work(body))

    def on_response_body(
        self, request: Request, response: Response
    ) -> ResponseAction | Awaitable[ResponseAction | None] | None:
        """Check the response's body."""
        if is_denial(response):
            return None
        body = response.body or b""
        status = response.status
        if not self._statuses(status) or (not body and (status in _NO_BODY or request.method == "HEAD")):
            return None
        return self.offload_large(
            self._finding,
            "response",
            essence_of(response.headers),
            body,
            then=lambda found: self._report(request, status, found),
            size=_work(body),
        )

    def _refusal(self, found: Finding | None) -> ImmediateResponse | None:
        if found is None:
            return None
        errors = [self._error(one) for one in found.violations]
        return problem(found.status, found.title, found.detail, reason=found.reason, errors=errors)

    def _report(self, request: Request, status: int, found: Finding | None) -> ImmediateResponse | None:
        if found is None:
            return None
        places = [f"{one.pointer or '/'} {one.detail}" for one in found.violations]
        facts = {"reason": found.reason, "status": status, "detail": found.detail, "violations": places}
        extra = {"event": "response_invalid", "request_id": request.id or None, "route": request.route, "fields": facts}
        _log.warning("the response of %s %s breaks its schema", request.method, request.route, extra=extra)
        request.metadata["json_schema_validation"] = {"response": found.reason, "violations": len(places)}
        if self._reports:
            return None
        detail = "The upstream's response is not what its contract says."
        return problem(502, "Bad Gateway", detail, reason=f"response_{found.reason}")

    def _finding(self, side: str, essence: str | None, body: bytes) -> Finding | None:
        schema = self._schemas[side]
        if body and not matches_media(essence or "", self._media):
            # An unreadable type is not another type: who reads the body may see JSON in it.
            if self._others_pass[side] and essence is not None:
                return None
            return Finding(415, "Unsupported Media Type", f"{_NOT_JSON_TYPE}.".capitalize(), "body_not_json_type")
        try:
            value = parse(body, self._depth)
        except NotJson as error:
            detail = f"The body is not valid JSON: {error}." if body else "A JSON body is expected."
            return Finding(400, "Bad Request", detail, "body_not_json")
        violations = schema.violations(value, self._most) if schema is not None else ()
        if not violations:
            return None
        detail = "The body does not fit its schema."
        if len(violations) == self._most:
            detail += f" The first {self._most} violations are listed; there may be more."
        title = "Bad Request" if self._invalid_status == 400 else "Unprocessable Content"
        return Finding(self._invalid_status, title, detail, "body_violates_schema", tuple(violations))

    def _error(self, one: Violation) -> dict[str, str]:
        error = {"pointer": one.pointer, "detail": one.detail}
        if self._values and one.value is not None:
            error["value"] = one.value
        return error


def _work(body: bytes) -> int:
    """Return the work as a size: a value costs as much as 128 bytes of text, with a schema of several alternatives."""
    return max(len(body), 128 * sum(map(body.count, _BEFORE_VALUES)))


def _schema(side: Mapping[str, Any], where: str, *, formats: bool) -> BodySchema | None:
    return BodySchema(side["schema"], f"{where}/schema", formats=formats) if side else None


def _statuses(wanted: tuple[str, ...]) -> Callable[[int], bool]:
    """Return the test for statuses such as `201` and classes such as `2xx`."""
    texts = frozenset(wanted)
    return lambda status: str(status) in texts or f"{status // 100}xx" in texts
