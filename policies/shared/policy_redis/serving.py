"""Connections that are given up when their server cannot serve, and that do not wait for an address that is dead.

A separate module because both are about what is on the wire, whichever kind of Redis is behind it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from redis.asyncio import Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

ATTEMPT_DELAY = 0.25
"""Seconds after which the next address of a name is tried beside the first (RFC 8305, 8)."""

_CANNOT_SERVE = re.compile(
    r"(?:^|[\s-])(READONLY|LOADING|MASTERDOWN|CLUSTERDOWN|NOREPLICAS|MISCONF|OOM|NOMASTERLINK|REDIRECT|MOVED|BUSY)\b"
)
"""Codes of replies that another server, or this one later, would not give; a script of Redis 6 quotes them."""


class CannotServe(RedisConnectionError):
    """The server answered that it cannot do what it is there for: demoted, loading, full, without its replicas."""


class _Serving:
    """For the connection classes of redis-py: the answers of a server that cannot serve end the connection.

    They count as a broken connection, so that the command is tried once more on a new one, for which the name is
    resolved anew or Sentinel is asked.
    """

    attempt_delay = ATTEMPT_DELAY

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Read one reply."""
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc] # a mix-in: the next class has it
        except ResponseError as error:
            found = _CANNOT_SERVE.search(f"{getattr(error, 'status_code', None) or ''} {error}")
            if found is None:
                raise
            await self.disconnect(nowait=True)  # type: ignore[attr-defined] # as above
            raise CannotServe(found[1]) from None


class _Tcp(_Serving):
    def __init__(self, *args: Any, attempt_delay: float = ATTEMPT_DELAY, **options: Any) -> None:
        super().__init__(*args, **options)
        self.attempt_delay = attempt_delay

    def _connection_arguments(self) -> Mapping[str, Any]:
        given: Mapping[str, Any] = super()._connection_arguments()  # type: ignore[misc] # as above
        return {**given, "happy_eyeballs_delay": self.attempt_delay}


class ServingConnection(_Tcp, Connection):
    """TCP."""


class ServingSSLConnection(_Tcp, SSLConnection):
    """TLS."""


class ServingSocketConnection(_Serving, UnixDomainSocketConnection):
    """A Unix socket."""


class Locator(Protocol):
    """Knows where the server is now."""

    async def primary(self) -> tuple[str, int]:
        """Return host and port; raises RedisConnectionError."""
        ...


class _Located(_Tcp):
    def __init__(self, *args: Any, locator: Locator, **options: Any) -> None:
        super().__init__(*args, **options)
        self._locator = locator

    async def _connect(self) -> None:
        self.host, self.port = await self._locator.primary()
        await super()._connect()  # type: ignore[misc] # as above


class LocatedConnection(_Located, Connection):
    """TCP, to where the locator says at each connecting."""


class LocatedSSLConnection(_Located, SSLConnection):
    """TLS, to where the locator says at each connecting."""


class Sentinels:
    """Asks all of them at once where the primary of `service` is and takes the first answer: some may be dead."""

    def __init__(self, service: str, clients: Sequence[Redis]) -> None:
        self._service = service
        self._clients = clients

    async def primary(self) -> tuple[str, int]:
        """Return host and port of the primary; raises RedisConnectionError."""
        asked = [asyncio.ensure_future(self._ask(client)) for client in self._clients]
        try:
            for answer in asyncio.as_completed(asked):
                with suppress(RedisError, OSError, TimeoutError):
                    found = await answer
                    if found is not None:
                        return found
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise RedisConnectionError("no Sentinel knows the primary")

    async def close(self) -> None:
        """Close the connections to them."""
        for client in self._clients:
            await client.aclose()

    async def _ask(self, client: Redis) -> tuple[str, int] | None:
        found: Any = await client.sentinel_get_master_addr_by_name(self._service)
        if found is None:
            return None
        host = found[0].decode() if isinstance(found[0], bytes) else str(found[0])
        return host, int(found[1])
