"""Messages between the supervisor and a worker process: JSON, one per line-framed packet, over a private socket pair.

JSON and not pickle, so that neither side can be made to run the other's bytes. Secrets travel in it; the socket pair
has no name and is inherited by the worker alone.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import asdict
from typing import Any

from policy_engine.worker.chains.error_answers import ErrorAnswers
from policy_engine.worker.chains.spec import ChainsSpec, FailureMode, PolicySpec, RouteSpec

_LENGTH = struct.Struct("!I")
_MOST = 256 * 1024 * 1024

Message = dict[str, Any]


class Channel:
    """One end of a socket pair. `receive` returns None when the other end is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Channel:
        """Wrap one end of a connected socket pair."""
        sock.setblocking(False)
        return cls(*await asyncio.open_connection(sock=sock))

    async def send(self, message: Message) -> None:
        """Send one message; raises ConnectionError when the other end is gone."""
        body = json.dumps(message, separators=(",", ":")).encode()
        self._writer.write(_LENGTH.pack(len(body)) + body)
        await self._writer.drain()

    async def receive(self) -> Message | None:
        """Return the next message, None at the end."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > _MOST:
                return None
            message = json.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Close this end."""
        self._writer.close()


def spec_to_message(spec: ChainsSpec) -> Message:
    """Return `spec` as JSON data, secrets included: for the channel only, never for a log or an admin page."""
    return {
        "routes": [
            {
                "route_key": route.route_key,
                "policies": [
                    asdict(policy) | {"failure_mode": policy.failure_mode.value, "secrets": sorted(policy.secrets)}
                    for policy in route.policies
                ],
                "errors": None if route.errors is None else route.errors.as_document(),
            }
            for route in spec.routes
        ]
    }


def spec_from_message(message: Message) -> ChainsSpec:
    """Return the spec that `spec_to_message` wrote."""
    return ChainsSpec(
        tuple(
            RouteSpec(
                route["route_key"],
                tuple(
                    PolicySpec(
                        **policy
                        | {
                            "failure_mode": FailureMode(policy["failure_mode"]),
                            "secrets": frozenset(policy["secrets"]),
                        }
                    )
                    for policy in route["policies"]
                ),
                None if route["errors"] is None else ErrorAnswers.from_document(route["errors"]),
            )
            for route in message["routes"]
        )
    )
