"""The admin endpoint (R-50, R-51, R-53): probes, metrics, and what is active, for machines and for people.

It runs in the supervisor, so that it answers whatever the workers do. It shows no secret; the one thing it changes is
the log level. Pages that make the engine do something take no request that a page of another origin sends.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from policy_engine.telemetry.admin_page import POLICY, Shown, figures, page
from policy_engine.telemetry.exposition import Families, exposition
from policy_engine.telemetry.history import ConfigurationHistory
from policy_engine.telemetry.logs import LEVELS, level
from policy_engine.telemetry.page_assets import SCRIPT, STYLE
from policy_engine.telemetry.readiness import Check, short_text, verbose_text
from policy_engine.telemetry.samples import Samples
from policy_engine.telemetry.trace_page import TracePage, Traces, refuse_other_origins
from policy_engine.telemetry.web import Handler, Request, Response, Server, Stream
from policy_engine.transport.listen import bind, bound_address


async def _none() -> Sequence[dict[str, Any]]:
    return ()


@dataclass(frozen=True, slots=True)
class AdminSources:
    """Where the pages take their content from."""

    ready: Callable[[], tuple[bool, str]]
    samples: Callable[[], Awaitable[Samples]]
    history: ConfigurationHistory
    build_info: Callable[[], dict[str, Any]]
    workers: Callable[[], dict[str, Any]]
    settings: Callable[[], list[dict[str, Any]]]
    traces: Traces
    set_log_level: Callable[[str], Awaitable[None]]
    management_server: Callable[[], dict[str, Any] | None] = lambda: None
    metrics_of_policies: Callable[[], Families] = lambda: {}
    checks: Callable[[], Sequence[Check]] = tuple
    denials: Callable[[], Awaitable[Sequence[dict[str, Any]]]] = _none


class AdminServer:
    """Serves the pages on one address (`host:port`, port 0 for any free one, or `unix:/path`).

    With `probes_only` it has `/livez`, `/readyz` and `/metrics` alone, fit for an address others can reach. The other
    pages answer to names and addresses of this machine's loopback and to `hosts` alone: a page of the internet whose
    name resolves to 127.0.0.1 must not read them with somebody's browser (DNS rebinding).
    """

    def __init__(
        self, address: str, sources: AdminSources, *, probes_only: bool = False, hosts: tuple[str, ...] = ()
    ) -> None:
        self.wanted = address
        self.sock: socket.socket | None = None
        """What it listens on, once it does."""
        self._hosts = frozenset(one.lower() for one in hosts)
        self._sources = sources
        self.probes_only = probes_only
        self._server = self._made()
        self.address = ""

    async def start(self, sock: socket.socket | None = None) -> None:
        """Listen, on `sock` if it is given; raises OSError naming the address."""
        sock = sock or bind(self.wanted)
        await self._server.start(sock)
        self.sock, self.address = sock, bound_address(sock)

    async def close(self) -> None:
        """Stop listening."""
        await self._server.close()

    def _made(self) -> Server:
        probes: dict[str, Handler] = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}
        if self.probes_only:
            return Server({path: {"GET": page} for path, page in probes.items()})
        traces = TracePage(self._sources.traces)
        pages: dict[str, Handler] = {
            **probes,
            "/": self._page,
            "/page.css": self._style,
            "/page.js": self._script,
            "/figures": self._figures,
            "/denials": self._denials,
            "/chains": self._chains,
            "/history": self._history,
            "/build-info": self._build_info,
            "/workers": self._workers,
            "/settings": self._settings,
            "/management-server": self._management_server,
            "/trace": traces.page,
        }
        level = {"GET": self._log_level, "PUT": self._set_log_level, "POST": self._set_log_level}
        return Server(
            {path: {"GET": page} for path, page in pages.items()} | {"/log-level": level},
            around=(self._refuse_other_hosts, refuse_other_origins),
            closing=traces.close,
        )

    async def _refuse_other_hosts(self, request: Request, handler: Handler) -> Response | Stream:
        host = request.headers.get("host", "")
        if _is_loopback(host) or _host_name(host) in self._hosts or self.wanted.startswith("unix:"):
            return await handler(request)
        text = (
            f"these pages are not for the host {host[:200]!r}; allowed: localhost, 127.0.0.1, [::1], and admin.hosts\n"
        )
        return Response(text, status=403)

    async def _livez(self, _: Request) -> Response:
        return Response("ok\n")

    async def _readyz(self, request: Request) -> Response:
        ready, reason = self._sources.ready()
        checks = self._sources.checks()
        verbose = "verbose" in request.query
        text = verbose_text(ready, reason, checks) if verbose else short_text(reason, checks)
        return Response(text, status=200 if ready else 503)

    async def _metrics(self, _: Request) -> Response:
        return Response(
            exposition(await self._sources.samples(), self._sources.metrics_of_policies()),
            content_type="text/plain; version=0.0.4; charset=utf-8",
        )

    async def _chains(self, _: Request) -> Response:
        return _json(self._active())

    async def _history(self, _: Request) -> Response:
        history = self._sources.history
        last = history.last_rejection
        return _json(
            {
                "accepted": history.accepted,
                "rejected": history.rejections,
                "last_rejection": last.as_document() if last is not None else None,
                "events": [event.as_document() for event in reversed(history.events)],
            }
        )

    async def _build_info(self, _: Request) -> Response:
        return _json(self._sources.build_info())

    async def _workers(self, _: Request) -> Response:
        return _json(self._sources.workers())

    async def _settings(self, _: Request) -> Response:
        return _json(self._sources.settings())

    async def _management_server(self, _: Request) -> Response:
        status = self._sources.management_server()
        if status is None:
            return Response("this engine reads its chains from files\n", 404)
        return _json(status)

    async def _log_level(self, _: Request) -> Response:
        return _json({"level": level()})

    async def _set_log_level(self, request: Request) -> Response:
        wanted = _level_in(request.text) or request.query.get("level", "")
        if wanted not in LEVELS:
            text = f"log level {wanted[:40]!r}: expected one of {', '.join(LEVELS)}, as the body or as ?level=\n"
            return Response(text, status=400)
        await self._sources.set_log_level(wanted)
        return _json({"level": wanted})

    def _active(self) -> dict[str, Any]:
        history = self._sources.history
        routes = history.active.routes if history.active is not None else ()
        return {"version": history.version, "routes": [route.as_document() for route in routes]}

    async def _page(self, request: Request) -> Response:
        ready, reason = self._sources.ready()
        number = request.query.get("page", "1")
        shown = Shown(
            ready=ready,
            reason=reason,
            checks=self._sources.checks(),
            history=self._sources.history,
            build=self._sources.build_info(),
            workers=self._sources.workers(),
            samples=await self._sources.samples(),
            denials=await self._sources.denials(),
            query=request.query.get("q", "")[:MOST_QUERY],
            number=int(number) if _PAGE_NUMBER.fullmatch(number) else 1,
        )
        return Response(page(shown), content_type="text/html; charset=utf-8", headers=_HEADERS)

    async def _figures(self, _: Request) -> Response:
        return _json(figures(await self._sources.samples(), *self._sources.ready()))

    async def _denials(self, _: Request) -> Response:
        return _json(list(await self._sources.denials()))

    async def _style(self, _: Request) -> Response:
        return Response(STYLE, content_type="text/css; charset=utf-8", headers=_HEADERS)

    async def _script(self, _: Request) -> Response:
        return Response(SCRIPT, content_type="text/javascript; charset=utf-8", headers=_HEADERS)


def _level_in(body: str) -> str:
    """Return the level in a body that is the word alone, or JSON: `"debug"`, `{"level": "debug"}`."""
    try:
        value = json.loads(body)
    except ValueError:
        return body.strip().lower()
    value = value.get("level", "") if isinstance(value, dict) else value
    return value.strip().lower() if isinstance(value, str) else ""


MOST_QUERY = 200
_PAGE_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def _host_name(host: str) -> str:
    """Return a Host header's name or address without its port, in lower case."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] if name.count(":") == 1 else name


def _is_loopback(host: str) -> bool:
    name = _host_name(host).removesuffix(".")
    try:
        return name in {"", "localhost"} or ip_address(name).is_loopback
    except ValueError:
        return False


def _json(document: Any) -> Response:
    return Response(json.dumps(document, indent=1) + "\n", content_type="application/json; charset=utf-8")
