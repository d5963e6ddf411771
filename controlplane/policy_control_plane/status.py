"""What the control plane knows about itself and its clients, as a document, as text and over HTTP.

A separate module because it only looks: nothing here changes what is served.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from policy_control_plane.ads_stream import Verdict
from policy_control_plane.configuration import Configuration
from policy_control_plane.fleet import Client, Fleet
from policy_control_plane.resources import NOTHING, SHORT_NAMES, version_of
from policy_control_plane.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Overview:
    """Where a status comes from."""

    configuration: Configuration
    rollout: Rollout
    fleet: Fleet

    def document(self) -> dict[str, Any]:
        """Return the status as JSON-able data; it holds no chain and no secret."""
        configuration, progress, target = self.configuration, self.rollout.progress, self.fleet.target
        rejection = configuration.rejection
        return {
            "configuration": {
                "directory": str(configuration.directory),
                "version": configuration.version,
                "loaded": configuration.loaded,
                "rejections": configuration.rejections,
                "rejected": None
                if rejection is None
                else {"time": rejection.time, "diagnostics": [str(one) for one in rejection.diagnostics]},
            },
            "rollout": {
                "stage": progress.stage.value,
                "version": progress.version,
                "since": progress.since,
                "waiting_for": list(progress.waiting),
                "refusals": list(progress.refusals),
            },
            "resources": {
                name: {
                    "version": version_of(target.get(type_url, NOTHING)),
                    "count": len(target.get(type_url, NOTHING)),
                }
                for type_url, name in SHORT_NAMES.items()
            }
            if target is not None
            else {},
            "clients": sorted((_client(client) for client in self.fleet), key=lambda one: (one["node"], one["peer"])),
        }


def _client(client: Client) -> dict[str, Any]:
    stream = client.stream
    return {
        "node": stream.node.id,
        "cluster": stream.node.cluster,
        "user_agent": stream.node.user_agent,
        "peer": client.peer,
        "variant": stream.variant,
        "connected_since": client.since,
        "stale_answers": stream.stale,
        "types": {
            SHORT_NAMES.get(type_url, type_url): {
                "state": stream.verdict(type_url).value,
                "accepted_version": subscription.accepted,
                "refused": None
                if subscription.refusal is None
                else {"version": subscription.refusal.version, "reason": subscription.refusal.message},
            }
            for type_url, subscription in stream.subscriptions.items()
        },
    }


def render(status: dict[str, Any], now: float | None = None) -> str:
    """Return a status document as text for a terminal."""
    now = time.time() if now is None else now
    configuration, rollout = status["configuration"], status["rollout"]
    lines = [
        f"configuration  {configuration['version'] or '-'}  from {configuration['directory']}",
        f"roll-out       {rollout['version'] or '-'}  {rollout['stage']}",
    ]
    lines += [f"               waiting for {name}" for name in rollout["waiting_for"]]
    lines += [f"               {reason}" for reason in rollout["refusals"]]
    if configuration["rejected"]:
        lines.append("the directory's present content is not valid and not in use:")
        lines += [f"  {one}" for one in configuration["rejected"]["diagnostics"]]
    lines.append(f"{len(status['clients'])} client(s)")
    for client in status["clients"]:
        age = int(now - client["connected_since"])
        about = " ".join(filter(None, (client["user_agent"], client["variant"], client["peer"])))
        lines.append(f"  {client['node'] or '?'}  {about}  connected {age} s")
        for name, state in client["types"].items():
            lines.append(f"    {name:<10} {state['state']:<8} {state['accepted_version'] or '-'}")
            if state["refused"]:
                lines.append(f"      refused {state['refused']['version']}: {state['refused']['reason']}")
    return "\n".join(lines) + "\n"


def converged(status: dict[str, Any]) -> bool:
    """Return whether every client has everything of the newest valid configuration."""
    states = [state["state"] for client in status["clients"] for state in client["types"].values()]
    in_use = status["rollout"]["stage"] == "in use" and not status["rollout"]["refusals"]
    same = status["rollout"]["version"] == status["configuration"]["version"]
    return in_use and same and all(state == Verdict.CURRENT.value for state in states)


class StatusServer:
    """Serves `/status` (JSON, or text with `?format=text`), `/livez` and `/readyz`; read-only."""

    def __init__(self, address: str, overview: Overview) -> None:
        self._address = address
        self._overview = overview
        application = web.Application()
        application.router.add_get("/status", self._status)
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(application, access_log=None)
        self.port = 0

    async def start(self) -> None:
        """Begin to serve; raises OSError."""
        await self._runner.setup()
        parts = urlsplit(f"//{self._address}")
        site = web.TCPSite(self._runner, parts.hostname, parts.port or 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop serving."""
        await self._runner.cleanup()

    async def _status(self, request: web.Request) -> web.Response:
        document = self._overview.document()
        if request.query.get("format") == "text":
            return web.Response(text=render(document))
        return web.Response(text=json.dumps(document, indent=2) + "\n", content_type="application/json")

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._overview.fleet.target is None:
            return web.Response(status=503, text="no valid configuration yet\n")
        return web.Response(text="ready\n")
