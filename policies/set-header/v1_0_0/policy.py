"""Set, append and remove headers; what is sent is decided once, when the chain is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from policy_engine.sdk import (
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
    format_pointer,
    header_name,
    header_value,
)


class SetHeader(Policy):
    """Gives the same mutation for every request, so that the engine serialises it once."""

    def __init__(self, parameters: Parameters) -> None:
        request, response = parameters.get("request"), parameters.get("response")
        self._request = None if request is None else _changes(request, "/request").for_request()
        self._response = None if response is None else _changes(response, "/response").for_response()
        actions = {"request_headers": self._request, "response_headers": self._response}
        self.constant_actions = {phase: action for phase, action in actions.items() if action is not None}
        self.idle_phases = actions.keys() - self.constant_actions.keys()

    def on_request_headers(self, request: Request) -> RequestMutation | None:
        """Change the request."""
        return self._request

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation | None:
        """Change the response."""
        return self._response


@dataclass(frozen=True, slots=True)
class _Changes:
    remove: tuple[str, ...]
    set: Mapping[str, str]
    append: tuple[tuple[str, str], ...]

    def for_request(self) -> RequestMutation:
        return RequestMutation(remove_headers=self.remove, set_headers=self.set, append_headers=self.append)

    def for_response(self) -> ResponseMutation:
        return ResponseMutation(remove_headers=self.remove, set_headers=self.set, append_headers=self.append)


def _changes(section: Mapping[str, Any], path: str) -> _Changes:
    remove = [
        _checked(header_name, name, f"{path}/remove/{index}") for index, name in enumerate(section.get("remove", ()))
    ]
    replace: dict[str, str] = {}
    for name, value in section.get("set", {}).items():
        where = path + format_pointer(("set", name))
        lower = _checked(header_name, name, where)
        if lower in replace:
            raise ParameterError(f"{name!r} is set twice; header names do not depend on case", where)
        replace[lower] = _checked(header_value, value, where)
    append: list[tuple[str, str]] = []
    for name, values in section.get("append", {}).items():
        where = path + format_pointer(("append", name))
        lower = _checked(header_name, name, where)
        if isinstance(values, str):
            append.append((lower, _checked(header_value, values, where)))
        else:
            append.extend(
                (lower, _checked(header_value, value, f"{where}/{index}")) for index, value in enumerate(values)
            )
    return _Changes(tuple(remove), replace, tuple(append))


def _checked(check: Callable[[str], str], text: str, path: str) -> str:
    try:
        return check(text)
    except ValueError as error:
        raise ParameterError(str(error), path) from None
