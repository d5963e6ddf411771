"""A log line for each request or response, through `logging`, without secrets."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from policy_engine.sdk import Headers, Parameters, Policy, Request, Response

_log = logging.getLogger("policy.log-message")
_SECRET = frozenset(
    (
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
        "x-amz-security-token",
        "x-csrf-token",
    )
)
_REDACTED = "***"
_DEEPEST = 4  # levels of metadata that are copied into a line


class LogMessage(Policy):
    """Writes and changes nothing."""

    def __init__(self, parameters: Parameters) -> None:
        at = parameters.get("at", ("response",))
        self.idle_phases = {f"{phase}_headers" for phase in ("request", "response") if phase not in at}
        text = parameters.get("message", "")
        self._prefix = f"{text}: " if text else ""
        self._level = logging.getLevelNamesMapping()[parameters.get("level", "info").upper()]
        self._request_headers = [name.lower() for name in parameters.get("request_headers", ())]
        self._response_headers = [name.lower() for name in parameters.get("response_headers", ())]
        self._metadata = parameters.get("metadata", ())
        self._query = parameters.get("query", False)
        self._redact = _SECRET.union(name.lower() for name in parameters.get("redact", ()))
        self._longest = parameters.get("max_value_length", 256)

    def on_request_headers(self, request: Request) -> None:
        """Write the line about the request."""
        if _log.isEnabledFor(self._level):
            self._write("request", request, self._fields(request), "")

    def on_response_headers(self, request: Request, response: Response) -> None:
        """Write the line about the response."""
        if _log.isEnabledFor(self._level):
            fields = self._fields(request) | {"status": response.status, "origin": response.origin}
            if self._response_headers:
                fields["response_headers"] = self._values(response.headers, self._response_headers)
            self._write("response", request, fields, f" {response.status}")

    def _fields(self, request: Request) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "method": request.method,
            "path": _clean(request.target if self._query else request.path),
            "authority": _clean(request.authority),
            "client_address": request.client_address,
        }
        if self._request_headers:
            fields["request_headers"] = self._values(request.headers, self._request_headers)
        chosen = {name: _plain(request.metadata[name], 0) for name in self._metadata if name in request.metadata}
        if chosen:
            fields["metadata"] = chosen
        return fields

    def _values(self, headers: Headers, names: Iterable[str]) -> dict[str, str]:
        wanted = list(headers) if "*" in names else [name for name in names if name in headers]
        return {name: self._value(name, headers.get_all(name)) for name in wanted if not name.startswith(":")}

    def _value(self, name: str, values: Iterable[str]) -> str:
        if name in self._redact:
            return _REDACTED
        text = _clean(", ".join(values))
        return text if len(text) <= self._longest else f"{text[: self._longest]}…"

    def _write(self, event: str, request: Request, fields: Mapping[str, Any], status: str) -> None:
        line = f"{self._prefix}{fields['method']} {fields['path']}{status}"
        facts = {"event": event, "request_id": request.id or None, "route": request.route, "fields": fields}
        _log.log(self._level, "%s", line, extra=facts)


def _clean(text: str) -> str:
    """Return the text without what could forge a line or break its encoding."""
    if text.isascii() and text.isprintable():
        return text
    readable = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "�" for char in readable)


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _clean(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth < _DEEPEST:
        if isinstance(value, Mapping):
            return {_clean(str(name)): _plain(item, depth + 1) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [_plain(item, depth + 1) for item in value]
    return f"({type(value).__name__})"
