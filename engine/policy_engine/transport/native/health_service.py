"""`grpc.health.v1.Health` on the same port as the service, as stream handlers like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from policy_engine.kernel.stream import Replies, StreamError
from policy_engine.transport.health import Health, ServingStatus
from policy_engine.transport.native.headers import INVALID_ARGUMENT, NOT_FOUND, UNAVAILABLE


class HealthCheck:
    """`Check`: one question, one answer."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def receive(self, message: bytes) -> Replies:
        """Answer with the state, or NOT_FOUND for a service that is not here."""
        service = _service(message)
        status = self._health.status(service)
        if status is ServingStatus.SERVICE_UNKNOWN:
            raise StreamError(NOT_FOUND, f"unknown service {service!r}")
        return _response(status)

    def close(self) -> None:
        """Nothing to free."""


class HealthWatch:
    """`Watch`: the state now and after every change, until the client leaves or the server drains."""

    def __init__(self, health: Health, push: Callable[[bytes], None]) -> None:
        self._health = health
        self._push = push

    def receive(self, message: bytes) -> Coroutine[Any, Any, Replies]:
        """Begin to watch."""
        return self._watch(_service(message))

    def close(self) -> None:
        """Nothing to free: the watch ends by cancellation."""

    async def _watch(self, service: str) -> Replies:
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(changed.set)

        stop_observing = self._health.observe(wake)
        told: ServingStatus | None = None
        try:
            while True:
                status = self._health.status(service)
                if status is not told:
                    self._push(_response(status))
                    told = status
                if self._health.draining:
                    raise StreamError(UNAVAILABLE, "server is draining")
                await changed.wait()
                changed.clear()
        finally:
            stop_observing()


def _service(message: bytes) -> str:
    try:
        service: str = health_pb2.HealthCheckRequest.FromString(message).service
    except DecodeError:
        raise StreamError(INVALID_ARGUMENT, "not a grpc.health.v1.HealthCheckRequest") from None
    return service


def _response(status: ServingStatus) -> bytes:
    return bytes(health_pb2.HealthCheckResponse(status=int(status)).SerializeToString())
