"""Gives the model that a client asks for to a backend, and tells Envoy which one by a header."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from inspect import isawaitable
from random import random
from typing import Any

from policy_body import NotJson, dump, parse, problem
from policy_engine.sdk import (
    ExpressionFailed,
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestMutation,
    Response,
    digest_key,
    header_name,
)
from policy_llm import Unclear, asked, model_in_path, with_model_in_path

from .targets import Health, Target, chosen

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
_FAIL_ON = (429, 500, 502, 503, 504, 529)
_DIGITS = 8
_SHARES = float(16**_DIGITS)
_LONGEST_DELAY = 6  # digits of retry-after

_ForRequest = RequestMutation | ImmediateResponse | None


@dataclass(frozen=True, slots=True)
class _Read:
    """The model that a request names, where, or what is wrong with it."""

    model: str = ""
    in_path: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class _Route:
    model: re.Pattern[str]
    targets: Sequence[Target]
    fallbacks: Sequence[Target]


@dataclass(slots=True)
class _Kept:
    """What is kept for a request: where among the weights it is, and its target until an answer has come of it."""

    target: Target | None = None
    share: float = 0.0


class LlmRouter(Policy):
    """404 for a model that no route is for, 400 for a request that is not clear."""

    def __init__(self, parameters: Parameters) -> None:
        try:
            self._header = header_name(parameters.get("header", "x-llm-backend"))
        except ValueError as error:
            raise ParameterError(str(error), "/header") from None
        self._routes = [_route(entry, f"/routes/{at}") for at, entry in enumerate(parameters["routes"])]
        self._refuses_unknown = parameters.get("unknown_model", "deny") == "deny"
        self._key = self.expression(parameters["key"], "/key") if "key" in parameters else None
        self._fail_on = frozenset(parameters.get("fail_on", _FAIL_ON))
        self._health = Health(parameters.get("failures", 1), _seconds(parameters.get("cooldown", "30s")))
        self._removed = RequestMutation(remove_headers=[self._header])

    def on_request_headers(self, request: Request) -> RequestMutation:
        """Take the header away that is ours to set."""
        self.state(request, _Kept).share = self._share(request)
        return self._removed

    def on_request_body(self, request: Request) -> _ForRequest | Awaitable[_ForRequest]:
        """Choose."""
        if not request.body:
            return None
        read = self.offload_large(_read, request.body, request.path)
        return self._chosen(request, read) if isinstance(read, _Read) else self._chosen_later(request, read)

    def on_response_headers(self, request: Request, response: Response) -> None:
        """See whether the target works."""
        kept = self.state(request, _Kept)
        if kept.target is None or response.origin == "policy":
            return
        failed = response.status in self._fail_on
        after = response.headers.get("retry-after") or ""
        seconds = float(after) if after.isdecimal() and len(after) <= _LONGEST_DELAY else 0.0
        self._health.answered(kept.target, failed=failed, retry_after=seconds)
        kept.target = None

    async def _chosen_later(self, request: Request, read: Awaitable[_Read]) -> _ForRequest:
        found = self._chosen(request, await read)
        return await found if isawaitable(found) else found

    def _chosen(self, request: Request, read: _Read) -> _ForRequest | Awaitable[_ForRequest]:
        if read.fault:
            return problem(400, "Bad Request", read.fault, reason="llm_router_body_unreadable")
        route = next((one for one in self._routes if one.model.fullmatch(read.model)), None)
        if route is None:
            return self._unknown() if self._refuses_unknown else None
        kept = self.state(request, _Kept)
        target = kept.target = chosen(route.targets, route.fallbacks, self._health, kept.share)
        model = target.model or read.model
        told = {"asked": read.model, "model": model, "backend": target.backend}
        request.metadata["llm_router"] = told
        if model == read.model:
            return self._mutation(request, read, target, told, None)
        return self.offload_large(
            _renamed,
            request.body,
            model,
            then=lambda body: self._mutation(request, read, target, told, body),
        )

    def _mutation(
        self, request: Request, read: _Read, target: Target, told: dict[str, Any], body: bytes | None
    ) -> RequestMutation:
        path: str | None = None
        if body is not None and read.in_path:
            path, mark, query = request.target.partition("?")
            path = with_model_in_path(path, told["model"]) + mark + query
        return RequestMutation(
            set_headers={self._header: target.backend},
            body=body,
            path=path,
            clear_route_cache=True,
            dynamic_metadata={"policy.llm_router": told},
        )

    def _share(self, request: Request) -> float:
        """Return a number from 0 up to 1: the same for requests of one key, as far as they have one."""
        if self._key is None:
            return random()  # noqa: S311 - a share of the load, nothing to guess
        try:
            value = self._key.evaluate(request)
        except ExpressionFailed:
            value = None
        if value is None:
            return random()  # noqa: S311 - as above
        return int(digest_key(json.dumps(value, sort_keys=True))[:_DIGITS], 16) / _SHARES

    @staticmethod
    def _unknown() -> ImmediateResponse:
        detail = "There is no such model."
        error = {"message": detail, "type": "invalid_request_error", "code": "model_not_found"}
        return problem(404, "Not Found", detail, reason="llm_router_unknown_model", more={"error": error})


def _read(body: bytes, path: str) -> _Read:
    """Read a request; a pure function, so that a helper can do it."""
    try:
        document = parse(body)
        if not isinstance(document, dict):
            return _Read(fault="The body is not a JSON object.")
        return _Read(asked(document, path).model, model_in_path(path))
    except NotJson as error:
        return _Read(fault=f"The body is not valid JSON: {error}.")
    except Unclear as error:
        return _Read(fault=f"The request is not clear: {error}.")


def _renamed(body: bytes, model: str) -> bytes:
    """Return the body with another model where it names one."""
    document = parse(body)
    if "model" not in document:
        return body
    document["model"] = model
    return dump(document)


def _route(entry: Parameters, where: str) -> _Route:
    targets = [_target(one) for one in entry["targets"]]
    if not any(one.weight for one in targets):
        raise ParameterError("one target needs a weight above 0", f"{where}/targets")
    return _Route(re.compile(translate(entry["model"])), targets, [_target(one) for one in entry.get("fallbacks", ())])


def _target(entry: Parameters) -> Target:
    return Target(entry["backend"], entry.get("model") or "", entry.get("weight", 1))


def _seconds(text: str) -> float:
    number = text.rstrip("ms")
    return int(number) * _SECONDS[text[len(number) :]]
