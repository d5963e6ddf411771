"""From the `redis` parameter that the policies share to a link; what a URL may not hold is refused here."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from policy_engine.sdk import ParameterError, Parameters
from policy_redis.connection import RedisLink
from policy_redis.serving import (
    ATTEMPT_DELAY,
    LocatedConnection,
    LocatedSSLConnection,
    Sentinels,
    ServingConnection,
    ServingSocketConnection,
    ServingSSLConnection,
)

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PORT, _SENTINEL_PORT = 6379, 26379
_URL = re.compile(r"(rediss?)(\+sentinel|\+cluster)?://([^/]*)(?:/(.*))?", re.DOTALL)
_FORMS = (
    "redis://HOST:PORT/DB, redis+sentinel://HOST:PORT,…/SERVICE/DB, redis+cluster://HOST:PORT,…, each as rediss for "
    "TLS, or unix:///PATH is expected"
)


@dataclass(frozen=True, slots=True)
class _Address:
    """Where Redis is: a socket's path, or servers of a kind (empty, `+sentinel`, `+cluster`)."""

    path: str = ""
    kind: str = ""
    tls: bool = False
    servers: Sequence[tuple[str, int]] = ()
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        servers = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.servers)
        return f"redis{'s' if self.tls else ''}{self.kind}://{servers}{'/' if self.service else ''}{self.service}"


def redis_from(parameters: Parameters, path: str = "/redis") -> RedisLink:
    """Build the link that `parameters` (the value at `path`) describe; raises ParameterError, never with a secret."""
    address = _address(parameters["url"], f"{path}/url")
    timeout = seconds(parameters.get("timeout", "200ms"), f"{path}/timeout")
    pause = seconds(parameters.get("retry_after", "1s"), f"{path}/retry_after")
    connections = parameters.get("max_connections", 32)
    times: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    account = {name: parameters[name] for name in ("username", "password") if name in parameters}
    tls = _tls(address, parameters, path)
    if address.kind == "+cluster":
        nodes = [ClusterNode(host, port) for host, port in address.servers]
        cluster = RedisCluster(
            startup_nodes=nodes, max_connections=connections, ssl=address.tls, **times, **account, **tls
        )
        return RedisLink(str(address), cluster, timeout=timeout, pause=pause, close_client=cluster.aclose)
    options = {**times, **account, **tls, **address.options}
    sentinels = None
    if address.kind == "+sentinel":
        sentinels = _sentinels(address, parameters, {**times, **tls})
        options.update(connection_class=LocatedSSLConnection if address.tls else LocatedConnection, locator=sentinels)
    elif address.path:
        options["connection_class"] = ServingSocketConnection
    else:
        options["connection_class"] = ServingSSLConnection if address.tls else ServingConnection
    if not address.path:
        # The next address of the name is tried early enough for it to answer in time.
        options["attempt_delay"] = min(ATTEMPT_DELAY, timeout / 4)
    pool = BlockingConnectionPool(max_connections=connections, timeout=timeout, retry=_once(), **options)
    client: Redis = Redis(connection_pool=pool)

    async def close() -> None:
        await client.aclose()
        await pool.disconnect()
        if sentinels is not None:
            await sentinels.close()

    return RedisLink(str(address), client, timeout=timeout, pause=pause, close_client=close)


def seconds(text: str, path: str) -> float:
    """Return the seconds of a duration such as `200ms`, `30s`, `5m`, `1h` or `1d`; raises ParameterError."""
    found = re.fullmatch(r"(\d{1,9})(ms|s|m|h|d)", text, re.ASCII)
    if found is None:
        raise ParameterError(f"{text!r} is not a duration such as 200ms, 30s, 5m, 1h or 1d", path)
    return int(found[1]) * _SECONDS[found[2]]


def _once() -> Retry:
    """Try again once, at once: a pooled connection may be one of before Redis was started again, or was demoted."""
    return Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))


def _sentinels(address: _Address, parameters: Parameters, options: dict[str, Any]) -> Sentinels:
    account = {
        name: parameters[f"sentinel_{name}"] for name in ("username", "password") if f"sentinel_{name}" in parameters
    }
    kind = ServingSSLConnection if address.tls else ServingConnection
    return Sentinels(
        address.service,
        [
            Redis(
                connection_pool=BlockingConnectionPool(
                    max_connections=4, connection_class=kind, host=host, port=port, retry=_once(), **options, **account
                )
            )
            for host, port in address.servers
        ],
    )


def _tls(address: _Address, parameters: Parameters, path: str) -> dict[str, Any]:
    if "ca_file" not in parameters:
        return {}
    if not address.tls:
        raise ParameterError("a CA is of use only with rediss://", f"{path}/ca_file")
    try:
        ssl.create_default_context(cafile=parameters["ca_file"])
    except (OSError, ssl.SSLError) as error:
        raise ParameterError(f"no CA certificates can be read from it: {error}", f"{path}/ca_file") from None
    return {"ssl_ca_certs": parameters["ca_file"]}


def _address(url: str, path: str) -> _Address:
    """Return where Redis is; the URL is not quoted in errors, it may hold a password."""
    if "@" in url:
        raise ParameterError("credentials do not belong in the URL: use username and password beside it", path)
    if "?" in url or "#" in url:
        raise ParameterError("a query or fragment means nothing here", path)
    if url.startswith("unix:"):
        socket = url.removeprefix("unix://")
        if not socket.startswith("/"):
            raise ParameterError("unix: is followed by an absolute path: unix:///run/redis.sock", path)
        return _Address(path=unquote(socket), options={"path": unquote(socket)})
    found = _URL.fullmatch(url)
    if found is None:
        raise ParameterError(_FORMS, path)
    kind = found[2] or ""
    servers = [_server(text, _SENTINEL_PORT if kind == "+sentinel" else _PORT, path) for text in found[3].split(",")]
    if len(servers) > 1 and not kind:
        raise ParameterError(_FORMS, path)
    service, _, rest = (found[4] or "").partition("/") if kind == "+sentinel" else ("", "", found[4] or "")
    if kind == "+sentinel" and not service:
        raise ParameterError("the path of the URL begins with the service that the Sentinels watch", path)
    database = rest.strip("/") or "0"
    if re.fullmatch(r"\d{1,4}", database, re.ASCII) is None or (kind == "+cluster" and database != "0"):
        raise ParameterError("the path of the URL is the number of a database, such as /0 (a cluster has only 0)", path)
    options: dict[str, Any] = {} if kind == "+cluster" else {"db": int(database)}
    if not kind:
        options["host"], options["port"] = servers[0]
    return _Address(kind=kind, tls=found[1] == "rediss", servers=servers, service=service, options=options)


def _server(text: str, port: int, path: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, given = parts.hostname, parts.port
    except ValueError:
        host = given = None
    if not host:
        raise ParameterError(_FORMS, path)
    return host, given or port
