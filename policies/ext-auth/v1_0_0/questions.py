"""What the server is asked: forward-auth as proxies do it, or the input document of OPA's data API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from policy_body import dump
from policy_engine.sdk import Request
from policy_http import Call

_COOKIE = "cookie"  # the one header whose lines are joined in another way (RFC 9113, 8.2.3)


def forward_auth(request: Request, target: str, names: Iterable[str], body: bytes | None) -> Call:
    """Return a GET, or a POST of the body, with the request in `x-forwarded-…`; `names` are of headers to be sent."""
    headers = {name: value for name, value in _chosen(request, names).items() if not name.startswith("x-forwarded-")}
    headers |= {
        "x-forwarded-method": request.method,
        "x-forwarded-proto": request.scheme,
        "x-forwarded-host": request.authority,
        "x-forwarded-uri": request.target,
        "x-forwarded-for": request.client_address,
    }
    return Call("GET" if body is None else "POST", target, headers, body)


def opa_input(request: Request, target: str, names: Iterable[str], body: bytes | None, metadata: Sequence[str]) -> Call:
    """Return a POST of `{"input": …}` in the shape of opa-envoy-plugin; `metadata` names what of it goes along."""
    http = {
        "method": request.method,
        "scheme": request.scheme,
        "host": request.authority,
        "path": request.target,
        "headers": {name: _text(value) for name, value in _chosen(request, names).items()},
    }
    if body is not None:
        http["body"] = body.decode("utf-8", "replace")
    document = {
        "attributes": {"request": {"http": http}, "source": {"address": request.client_address}},
        "parsed_path": [unquote(part) for part in request.path.split("/")[1:]],
        "parsed_query": {name: list(request.query_values(name)) for name in request.query},
        "metadata": {name: request.metadata[name] for name in metadata if name in request.metadata},
    }
    headers = {"content-type": "application/json", "accept": "application/json"}
    return Call("POST", target, headers, dump(_sendable({"input": document})))


def _chosen(request: Request, names: Iterable[str]) -> Mapping[str, str]:
    found = {name: request.headers.get_all(name) for name in names}
    return {name: ("; " if name == _COOKIE else ", ").join(lines) for name, lines in found.items() if lines}


def _sendable(value: Any) -> Any:
    """Return the same without what JSON in UTF-8 cannot hold: bytes of paths and headers that are no UTF-8."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return {_text(str(name)): _sendable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_sendable(one) for one in value]
    return value


def _text(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "replace").decode()
