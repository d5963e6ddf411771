"""An upstream that answers with what it was sent, so that one sees what policies made of a request."""

from __future__ import annotations

from aiohttp import web

_MOST = 64 << 20
"""Bytes of a body that it takes; above every limit of an engine that is tried out."""
_HOP_BY_HOP = frozenset({"connection", "content-length", "transfer-encoding", "host"})


class Echo:
    """Answers 200 to everything, as JSON: method, target, headers as they came, body as text. `address` is where."""

    def __init__(self) -> None:
        application = web.Application(client_max_size=_MOST)
        application.router.add_route("*", "/{path:.*}", _answer)
        self._runner = web.AppRunner(application, access_log=None)
        self.address = ""

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"

    async def close(self) -> None:
        """Stop."""
        await self._runner.cleanup()


async def _answer(request: web.Request) -> web.Response:
    body = await request.read()
    headers: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        headers.setdefault(name.lower(), []).append(value)
    told = {
        "method": request.method,
        "target": request.raw_path,
        "authority": request.host,
        "headers": {name: values for name, values in headers.items() if name not in _HOP_BY_HOP},
        "body": body.decode(errors="replace"),
    }
    return web.json_response(told)
