"""The upstream as a program of its own, for the demo: what reaches it is read from its log, one JSON line a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

from integration.harness.exchange import Received, echo
from integration.harness.processes import Process, python_program
from integration.harness.upstream import start_server


class UpstreamProcess(Process):
    """Starts this module as a program; it echoes every request."""

    def __init__(self, directory: Path) -> None:
        command, env = python_program("integration.harness.upstream_process")
        super().__init__("upstream", command, log_path=directory / "upstream.log", env=env)
        self._reported = 0

    def ready(self) -> int:
        """Return its port once it serves."""
        self.wait_until(lambda: bool(self._lines()), what="ready")
        port: int = self._lines()[0]["port"]
        return port

    def arrived(self) -> list[Received]:
        """Return the requests that arrived since this was asked before."""
        requests = [
            Received(
                line["method"], line["target"], [(name, value) for name, value in line["headers"]], line["version"]
            )
            for line in self._lines()[1:]
        ]
        new = requests[self._reported :]
        self._reported = len(requests)
        return new

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log().splitlines(keepends=True) if line.endswith("\n")]


async def _serve() -> None:
    server = await start_server(_log, echo)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


def _log(request: Received) -> None:
    line = {
        "method": request.method,
        "target": request.target,
        "headers": request.headers,
        "version": request.http_version,
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve())
