"""Messages between the supervisor and a worker process: JSON, one per line-framed packet, over a private socket pair.

JSON and not pickle, so that neither side can be made to run the other's bytes. Secrets travel in it; the socket pair
has no name and is inherited by the worker alone.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import asdict, fields
from typing import Any

from policy_engine.worker.chains.error_answers import ErrorAnswers
from policy_engine.worker.chains.spec import (
    AnyOf,
    ChainsSpec,
    FailureMode,
    Mode,
    PolicySpec,
    RouteSpec,
    Share,
    Unmapped,
)

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
    # Field by field: `asdict` would copy every parameter once more.
    return {
        "routes": [
            {one.name: getattr(route, one.name) for one in fields(route)}
            | {
                "policies": [_sent(policy) for policy in route.policies],
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
                **route
                | {
                    "policies": tuple(_received(policy) for policy in route["policies"]),
                    "unmapped": None if route["unmapped"] is None else Unmapped(route["unmapped"]),
                    "errors": None if route["errors"] is None else ErrorAnswers.from_document(route["errors"]),
                }
            )
            for route in message["routes"]
        )
    )


def _sent(policy: PolicySpec) -> Message:
    return asdict(policy) | {"secrets": sorted(policy.secrets)}


def _received(message: Message) -> PolicySpec:
    group = message["any_of"]
    return PolicySpec(
        **message
        | {
            "failure_mode": FailureMode(message["failure_mode"]),
            "secrets": frozenset(message["secrets"]),
            "mode": Mode(message["mode"]),
            "share": _share(message["share"]),
            "any_of": None if group is None else AnyOf(**group | {"share": _share(group["share"])}),
        }
    )


def _share(message: Message | None) -> Share | None:
    return None if message is None else Share(**message)
