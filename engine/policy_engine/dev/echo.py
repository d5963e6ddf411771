"""An upstream that answers with what it was sent, so that one sees what policies made of a request."""

from __future__ import annotations

import json

from policy_engine.telemetry.web import Handler, Request, Response, Server
from policy_engine.transport.listen import bind, bound_address

_MOST = 64 << 20
"""Bytes of a body that it takes; above every limit of an engine that is tried out."""
_HOP_BY_HOP = frozenset({"connection", "content-length", "transfer-encoding", "host"})


class Echo:
    """Answers 200 to everything, as JSON: method, target, headers as they came, body as text. `address` is where."""

    def __init__(self) -> None:
        self._server = Server({}, around=[_answer], most_body=_MOST)
        self.address = ""

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        listener = bind("127.0.0.1:0")
        await self._server.start(listener)
        self.address = bound_address(listener)

    async def close(self) -> None:
        """Stop."""
        await self._server.close()


async def _answer(request: Request, _: Handler) -> Response:
    headers: dict[str, list[str]] = {}
    for name, value in request.lines:
        if name not in _HOP_BY_HOP:
            headers.setdefault(name, []).append(value)
    told = {
        "method": request.method,
        "target": request.target,
        "authority": request.host,
        "headers": headers,
        "body": request.text,
    }
    return Response(json.dumps(told), content_type="application/json; charset=utf-8")
