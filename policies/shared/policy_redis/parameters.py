"""From the `redis` parameter that the policies share to a link; what a URL may not hold is refused here."""

from __future__ import annotations

import re
import ssl
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection

from policy_engine.sdk import ParameterError, Parameters
from policy_redis.connection import RedisLink

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PORT = 6379


def redis_from(parameters: Parameters, path: str = "/redis") -> RedisLink:
    """Build the link that `parameters` (the value at `path`) describe; raises ParameterError, never with a secret."""
    where, options = _address(parameters["url"], f"{path}/url")
    for name in ("username", "password"):
        if name in parameters:
            options[name] = parameters[name]
    if "ca_file" in parameters:
        if options["connection_class"] is not SSLConnection:
            raise ParameterError("a CA is of use only with rediss://", f"{path}/ca_file")
        try:
            ssl.create_default_context(cafile=parameters["ca_file"])
        except (OSError, ssl.SSLError) as error:
            raise ParameterError(f"no CA certificates can be read from it: {error}", f"{path}/ca_file") from None
        options["ssl_ca_certs"] = parameters["ca_file"]
    return RedisLink(
        where,
        options,
        timeout=seconds(parameters.get("timeout", "200ms"), f"{path}/timeout"),
        connections=parameters.get("max_connections", 32),
        pause=seconds(parameters.get("retry_after", "1s"), f"{path}/retry_after"),
    )


def seconds(text: str, path: str) -> float:
    """Return the seconds of a duration such as `200ms`, `30s`, `5m`, `1h` or `1d`; raises ParameterError."""
    found = re.fullmatch(r"(\d{1,9})(ms|s|m|h|d)", text, re.ASCII)
    if found is None:
        raise ParameterError(f"{text!r} is not a duration such as 200ms, 30s, 5m, 1h or 1d", path)
    return int(found[1]) * _SECONDS[found[2]]


def _address(url: str, path: str) -> tuple[str, dict[str, Any]]:
    """Return the address for logs and the connection's options; the URL is not quoted, it may hold a password."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORT
    except ValueError:
        raise ParameterError("not a URL", path) from None
    if "@" in parts.netloc:
        raise ParameterError("credentials do not belong in the URL: use username and password beside it", path)
    if parts.query or parts.fragment:
        raise ParameterError("a query or fragment means nothing here", path)
    if parts.scheme == "unix":
        if parts.netloc or not parts.path:
            raise ParameterError("unix: is followed by an absolute path: unix:///run/redis.sock", path)
        socket = unquote(parts.path)
        return f"unix:{socket}", {"connection_class": UnixDomainSocketConnection, "path": socket}
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ParameterError("redis://HOST:PORT/DB, rediss://HOST:PORT/DB (TLS) or unix:///PATH is expected", path)
    database = parts.path.strip("/") or "0"
    if re.fullmatch(r"\d{1,4}", database, re.ASCII) is None:
        raise ParameterError("the path of the URL is the number of a database, such as /0", path)
    kind = SSLConnection if parts.scheme == "rediss" else Connection
    options = {"connection_class": kind, "host": parts.hostname, "port": port, "db": int(database)}
    return f"{parts.scheme}://{parts.hostname}:{port}", options
