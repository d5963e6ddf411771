"""Set, append and remove headers; what no expression gives is decided once, when the chain is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policy_engine.sdk import (
    Expression,
    ExpressionFailed,
    Json,
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
from policy_expressions import Budget, header_text

_Value = str | Expression[Json]
_Edit = tuple[Sequence[str], Mapping[str, str], Sequence[tuple[str, str]]]


class SetHeader(Policy):
    """Gives the same mutation for every request where no value comes from an expression."""

    def __init__(self, parameters: Parameters) -> None:
        self._request = self._changes(parameters, "request")
        self._response = self._changes(parameters, "response")
        self.idle_phases = {
            phase
            for phase, changes in (("request_headers", self._request), ("response_headers", self._response))
            if changes is None
        }
        self._for_request: RequestMutation | None = _fixed(self._request, RequestMutation)
        self._for_response: ResponseMutation | None = _fixed(self._response, ResponseMutation)
        fixed = {"request_headers": self._for_request, "response_headers": self._for_response}
        self.constant_actions = {phase: action for phase, action in fixed.items() if action is not None}

    def on_request_headers(self, request: Request) -> RequestMutation | None:
        """Change the request."""
        if self._for_request is not None or self._request is None:
            return self._for_request
        remove, replace, append = self._request.edit(request, None)
        return RequestMutation(remove_headers=remove, set_headers=replace, append_headers=append)

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation | None:
        """Change the response."""
        if self._for_response is not None or self._response is None:
            return self._for_response
        remove, replace, append = self._response.edit(request, response)
        return ResponseMutation(remove_headers=remove, set_headers=replace, append_headers=append)

    def _changes(self, parameters: Parameters, side: str) -> _Changes | None:
        section: Mapping[str, Any] | None = parameters.get(side)
        if section is None:
            return None
        path = f"/{side}"
        remove = [
            _checked(header_name, name, f"{path}/remove/{index}")
            for index, name in enumerate(section.get("remove", ()))
        ]
        replace: dict[str, _Value] = {}
        for name, value in section.get("set", {}).items():
            where = path + format_pointer(("set", name))
            lower = _checked(header_name, name, where)
            if lower in replace:
                raise ParameterError(f"{name!r} is set twice; header names do not depend on case", where)
            replace[lower] = self._value(value, where, side)
        append: list[tuple[str, _Value]] = []
        for name, values in section.get("append", {}).items():
            where = path + format_pointer(("append", name))
            lower = _checked(header_name, name, where)
            if isinstance(values, str | Mapping):
                append.append((lower, self._value(values, where, side)))
            else:
                append += [(lower, self._value(one, f"{where}/{index}", side)) for index, one in enumerate(values)]
        return _Changes(tuple(remove), replace, tuple(append))

    def _value(self, value: str | Mapping[str, str], where: str, side: str) -> _Value:
        if isinstance(value, str):
            return _checked(header_value, value, where)
        return self.expression(value["cel"], f"{where}/cel", with_response=side == "response")


@dataclass(frozen=True, slots=True)
class _Changes:
    remove: tuple[str, ...]
    set: Mapping[str, _Value]
    append: tuple[tuple[str, _Value], ...]

    @property
    def fixed(self) -> bool:
        """Whether no value comes from an expression."""
        return all(isinstance(value, str) for _, value in (*self.set.items(), *self.append))

    def edit(self, request: Request, response: Response | None) -> _Edit:
        """Return what to remove, to set and to append for this request."""
        budget = Budget()
        replace = {name: _text(value, request, response, budget) for name, value in self.set.items()}
        append = [(name, _text(value, request, response, budget)) for name, value in self.append]
        # What is not set must not be what the client sent.
        missing = [name for name, text in replace.items() if text is None]
        return (
            (*self.remove, *missing),
            {name: text for name, text in replace.items() if text is not None},
            [(name, text) for name, text in append if text is not None],
        )


def _text(value: _Value, request: Request, response: Response | None, budget: Budget) -> str | None:
    """Return the value as it is sent, None for what cannot be evaluated, or not be sent."""
    if isinstance(value, str):
        return value
    if budget.spent():
        return None
    try:
        found = value.evaluate(request, response)
        return None if found is None else header_text(found)
    except (ExpressionFailed, ValueError):
        return None


def _fixed(changes: _Changes | None, mutation: Callable[..., Any]) -> Any:
    if changes is None or not changes.fixed:
        return None
    return mutation(remove_headers=changes.remove, set_headers=dict(changes.set), append_headers=changes.append)


def _checked(check: Callable[[str], str], text: str, path: str) -> str:
    try:
        return check(text)
    except ValueError as error:
        raise ParameterError(str(error), path) from None
