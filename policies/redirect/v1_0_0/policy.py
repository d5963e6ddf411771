"""Redirects to where the configuration says: a whole URL, in which a client has no say beyond its own host and path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from policy_engine.sdk import (
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    UnreadableHeader,
    authority_of,
    host_of,
    single,
)
from policy_paths import is_target, path_change

_AUTHORITY = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?\.?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
_PORT = re.compile(r":([0-9]+)\Z", re.ASCII)
_IN_URL = "/%:@!$&'()*+,;=-._~?"
"""What stays as it is: the characters of path and query (RFC 3986, 3.3 and 3.4), and what is encoded already."""


class Redirect(Policy):
    """Answers with the redirect, lets through what is there already, and refuses (400) what can be no URL."""

    def __init__(self, parameters: Parameters) -> None:
        self._scheme = parameters.get("scheme")
        self._host = _host(parameters["host"]) if "host" in parameters else None
        self._port = parameters.get("port")
        self._change = path_change(parameters["path"]) if "path" in parameters else None
        self._keep_query = parameters.get("query", "keep") == "keep"
        self._status = parameters.get("status", 302)
        self._below = _leads_below_itself(parameters.get("path", {}))
        if self._below and not (self._scheme or self._host or self._port):
            reason = f"{self._below} is below the prefix from which it is reached, so that there would be no end"
            raise ParameterError(reason, "/path/prefix/to")
        self._impossible = ImmediateResponse(400, details="redirect_impossible")

    def on_request_headers(self, request: Request) -> ImmediateResponse | None:
        """Say where to go."""
        authority = request.authority.lower()
        if _AUTHORITY.fullmatch(authority) is None or not request.target.startswith("/"):
            return self._impossible
        path, mark, query = request.target.partition("?")
        target = (path if self._change is None else self._change(path)) + (mark + query if self._keep_query else "")
        if not is_target(target):
            return self._impossible
        used = _scheme_of(request)
        scheme = self._scheme or used
        goes_to = self._authority(authority, scheme)
        is_there = (scheme, goes_to) == (used, authority_of(authority, used))
        if is_there and (target == request.target or (self._below and f"{path}/".startswith(f"{self._below}/"))):
            return None
        url = f"{scheme}://{goes_to}{quote(target, safe=_IN_URL, errors='surrogateescape')}"
        return ImmediateResponse(self._status, b"", {"location": url}, details="redirect")

    def _authority(self, asked: str, scheme: str) -> str:
        host = self._host or host_of(asked)
        port = self._port
        if port is None and self._host is None and self._scheme is None:
            found = _PORT.search(asked)
            port = found and found[1]
        return authority_of(host if port is None else f"{host}:{port}", scheme)


def _scheme_of(request: Request) -> str:
    """Return the scheme that the client used: what a proxy in front of Envoy, or Envoy itself, noted."""
    try:
        noted = single(request.headers, "x-forwarded-proto")
    except UnreadableHeader:
        noted = None
    for scheme in (noted, request.scheme):
        if scheme is not None and scheme.lower() in ("http", "https"):
            return scheme.lower()
    return "http"


def _leads_below_itself(path: Mapping[str, Any]) -> str:
    """Return where a prefix leads when that is below itself: who has come there would be sent on without end."""
    if "prefix" not in path:
        return ""
    old, new = (path["prefix"][name].rstrip("/") for name in ("from", "to"))
    return new if new != old and new.startswith(f"{old}/") else ""


def _host(text: str) -> str:
    host = text.lower()
    if _AUTHORITY.fullmatch(host) is None or _PORT.search(host):
        raise ParameterError(f"{text!r} is no host; write a name or an address, the port goes into `port`", "/host")
    return host
