"""One fixed answer, built when the chain is loaded."""

from __future__ import annotations

from collections.abc import Callable

from policy_engine.sdk import (
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    format_pointer,
    header_name,
    header_value,
)

_WITHOUT_BODY = (204, 205, 304)  # RFC 9110, 15.3.5, 15.3.6, 15.4.5


class Respond(Policy):
    """Ends the chain with the same response for every request."""

    def __init__(self, parameters: Parameters) -> None:
        status, body = parameters["status"], parameters.get("body", "")
        if body and status in _WITHOUT_BODY:
            raise ParameterError(f"a response with status {status} has no body", "/body")
        headers: list[tuple[str, str]] = []
        content_type = _checked(
            header_value, parameters.get("content_type", "text/plain; charset=utf-8"), "/content_type"
        )
        if body:
            headers.append(("content-type", content_type))
        for name, values in parameters.get("headers", {}).items():
            where = format_pointer(("headers", name))
            lower = _checked(header_name, name, where)
            if lower == "content-type":
                raise ParameterError("the content type has a parameter of its own", where)
            for value in [values] if isinstance(values, str) else values:
                headers.append((lower, _checked(header_value, value, where)))
        once = {name: value for name, value in headers if [each for each, _ in headers].count(name) == 1}
        self._response = ImmediateResponse(
            status,
            body,
            once,
            append_headers=tuple(header for header in headers if header[0] not in once),
            grpc_status=parameters.get("grpc_status"),
            details="respond_policy",
        )

    def on_request_headers(self, request: Request) -> ImmediateResponse:
        """Answer."""
        return self._response


def _checked(check: Callable[[str], str], text: str, path: str) -> str:
    try:
        return check(text)
    except ValueError as error:
        raise ParameterError(str(error), path) from None
