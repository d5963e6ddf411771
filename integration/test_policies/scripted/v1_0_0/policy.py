"""A policy for the engine's own tests: its parameters are, phase by phase, the action to return."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from policy_engine.sdk import (
    Headers,
    ImmediateResponse,
    Parameters,
    Policy,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
    TrailerMutation,
)

_PHASES = (
    "request_headers",
    "request_body",
    "request_trailers",
    "response_headers",
    "response_body",
    "response_trailers",
)
Script = Mapping[str, Any]


class Scripted(Policy):
    """Phases that the parameters do not name are idle, so that one class stands for any set of phases."""

    def __init__(self, parameters: Parameters) -> None:
        self._scripts: Mapping[str, Script] = parameters
        self.idle_phases = tuple(phase for phase in _PHASES if phase not in parameters)

    def on_request_headers(self, request: Request) -> Any:
        return self._play("request_headers", lambda script: _request(script, request))

    def on_request_body(self, request: Request) -> Any:
        return self._play("request_body", lambda script: _request(script, request))

    def on_request_trailers(self, request: Request, trailers: Headers) -> Any:
        return self._play("request_trailers", lambda script: TrailerMutation(**_headers(script, trailers)))

    def on_response_headers(self, request: Request, response: Response) -> Any:
        return self._play("response_headers", lambda script: _response(script, request, response))

    def on_response_body(self, request: Request, response: Response) -> Any:
        return self._play("response_body", lambda script: _response(script, request, response))

    def on_response_trailers(self, request: Request, response: Response, trailers: Headers) -> Any:
        return self._play("response_trailers", lambda script: TrailerMutation(**_headers(script, trailers)))

    def _play(self, phase: str, act: Callable[[Script], Any]) -> Any:
        script = self._scripts[phase]
        return _later(script["wait"], lambda: act(script)) if "wait" in script else act(script)


def _later(seconds: float, act: Callable[[], Any]) -> Awaitable[Any]:
    async def later() -> Any:
        await asyncio.sleep(seconds)
        return act()

    return later()


def _request(script: Script, request: Request) -> RequestMutation | ImmediateResponse | None:
    if "respond" in script:
        return ImmediateResponse(**script["respond"])
    headers = _headers(script, request.headers, request.metadata)
    request.metadata.update(script.get("share", {}))
    return RequestMutation(
        **headers,
        **_given(script, "method", "path", "authority", "clear_route_cache"),
        body=_body(script, request.body),
        dynamic_metadata=script.get("metadata", {}),
    )


def _response(script: Script, request: Request, response: Response) -> ResponseMutation | ImmediateResponse | None:
    if "respond" in script:
        return ImmediateResponse(**script["respond"])
    return ResponseMutation(
        **_headers(script, request.headers, request.metadata),
        **_given(script, "status"),
        body=_body(script, response.body),
        dynamic_metadata=script.get("metadata", {}),
    )


def _headers(script: Script, seen: Headers, shared: Mapping[str, Any] | None = None) -> dict[str, Any]:
    copied = {to: seen.get(source) or "" for to, source in script.get("copy", {}).items()}
    copied |= {to: str((shared or {}).get(key)) for to, key in script.get("shared", {}).items()}
    raw = {name: bytes.fromhex(value) for name, value in script.get("hex", {}).items()}
    return {
        "set_headers": {**script.get("set", {}), **raw, **copied},
        "append_headers": [(name, value) for name, value in script.get("append", [])],
        "remove_headers": script.get("remove", ()),
    }


def _body(script: Script, body: bytes | None) -> bytes | None:
    if script.get("upper"):
        return (body or b"").upper()
    if "grow" in script:
        return (body or b"x") * int(script["grow"])
    return script["body"].encode() if "body" in script else None


def _given(script: Script, *names: str) -> dict[str, Any]:
    return {name: script[name] for name in names if name in script}
