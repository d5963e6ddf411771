"""`/trace` of the admin address: records of real requests as server-sent events, for as long as somebody listens.

Events (WHATWG HTML, "Server-sent events"): `record` with one record, `dropped` with how many were left out, `end` when
the limit or the time is reached. Comments keep the connection alive.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

from policy_engine.explain.live import MOST_BODY, Filter
from policy_engine.telemetry.web import Handler, Request, Response, Stream
from policy_engine.worker.conditions.condition import ConditionRefused

KEEP_ALIVE_SECONDS = 10.0
LOOK_SECONDS = 0.5
"""So often it is looked whether the listener is still there."""
STALLED_SECONDS = 10.0
"""A listener that has taken nothing for so long is taken for gone."""
MOST_RECORDS = 1_000_000
MOST_SECONDS = 24 * 3600.0

_FROM_ELSEWHERE = frozenset({"cross-site", "same-site"})


class Listener(Protocol):
    """What a listener is to be sent."""

    async def take(self, seconds: float) -> tuple[list[dict[str, Any]], int]:
        """Return the records that wait and how many were dropped, after at most `seconds`."""
        ...


class Traces(Protocol):
    """Where listeners come and go."""

    async def listen(self, wanted: Filter) -> Any:
        """Return a new listener; raises ConditionRefused for a condition, another exception when there are too many."""
        ...

    async def leave(self, listener: Any) -> None:
        """The listener is gone."""
        ...


async def refuse_other_origins(request: Request, handler: Handler) -> Response | Stream:
    """Refuse what a page of another origin asks for with somebody's browser, where that would do something."""
    origin = request.headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.host
    if (foreign or request.headers.get("sec-fetch-site", "") in _FROM_ELSEWHERE) and (
        request.method not in ("GET", "HEAD") or request.path == "/trace"
    ):
        return Response("this is not for pages of other origins\n", status=403)
    return await handler(request)


class TracePage:
    """The page; it ends its streams when the server closes, which would wait for them else."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces
        self._closing = False
        self._writing: list[Request] = []

    def close(self) -> None:
        """The server closes; listeners that do not read what they were sent are cut off, as nobody can tell them."""
        self._closing = True
        for request in self._writing:
            request.abort()

    async def page(self, request: Request) -> Response | Stream:
        """Answer `/trace?route=KEY&where=CEL&limit=N&seconds=S&bodies=CHARACTERS`, all of them optional."""
        try:
            limit = _number(request, "limit", MOST_RECORDS)
            seconds = _number(request, "seconds", MOST_SECONDS)
            bodies = int(_number(request, "bodies", MOST_BODY) or 0)
            unknown = sorted(set(request.query) - {"route", "where", "limit", "seconds", "bodies"})
            if unknown:
                raise ValueError(f"unknown parameter {unknown[0][:40]!r}; known: route, where, limit, seconds, bodies")
            wanted = Filter(request.query.get("route", ""), request.query.get("where", ""), bodies)
            listener = await self._traces.listen(wanted)
        except ConditionRefused as refused:
            return Response(f"where: {refused}\n", status=400)
        except ValueError as error:
            return Response(f"{error}\n", status=400)
        except RuntimeError as error:
            return Response(f"{error}\n", status=503)
        response = Stream(request, "text/event-stream", {"cache-control": "no-store", "x-accel-buffering": "no"})
        try:
            send = partial(self._write, request, response)
            await send(b": the engine records from now on\n\n")
            reason = await self._send_records(request, send, listener, limit, seconds)
            if reason:
                await send(_event("end", {"reason": reason}))
        except ConnectionError:
            pass  # the listener is gone
        finally:
            await asyncio.shield(self._traces.leave(listener))
        return response

    async def _write(self, request: Request, response: Stream, data: bytes) -> None:
        """Send `data`; raises ConnectionError for a listener that does not take it."""
        self._writing.append(request)
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                await response.write(data)
        except TimeoutError:
            request.abort()
            raise ConnectionResetError("the listener takes nothing") from None
        finally:
            self._writing.remove(request)

    async def _send_records(
        self,
        request: Request,
        send: Callable[[bytes], Awaitable[None]],
        listener: Listener,
        limit: float | None,
        seconds: float | None,
    ) -> str:
        """Send what comes; returns why that is over, nothing when the listener is gone."""
        loop = asyncio.get_running_loop()
        spoken = loop.time()
        ends = math.inf if seconds is None else spoken + seconds
        left = math.inf if limit is None else limit
        while request.connected:
            if self._closing:
                return "the engine stops"
            now = loop.time()
            if now >= ends:
                return "seconds"
            if now - spoken > KEEP_ALIVE_SECONDS:
                await send(b":\n\n")
                spoken = now
            records, dropped = await listener.take(min(LOOK_SECONDS, ends - now))
            for record in records:
                await send(_event("record", record))
                spoken, left = loop.time(), left - 1
                if left <= 0:
                    return "limit"
            if dropped:
                await send(_event("dropped", {"dropped": dropped}))
        return ""


def _event(event: str, data: dict[str, Any]) -> bytes:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event: {event}\ndata: {text}\n\n".encode(errors="replace")


def _number(request: Request, name: str, most: float) -> float | None:
    text = request.query.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= most:
        raise ValueError(f"{name}={text[:40]}: expected a number above 0, at most {most:g}")
    return value
