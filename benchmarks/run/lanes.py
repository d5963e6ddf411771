"""A lane: one server behind an Envoy of its own, with the load it gets. All lanes of a scenario run side by side, and
get their load one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.run.accounting import Usage, usage
from benchmarks.run.load import Outcome, Request, fixed_rate, full_speed
from benchmarks.run.servers import Address, EngineServer, Peer, PeerServer
from benchmarks.scenarios.chains import Chain, Phases
from integration.harness.envoy import Envoy, EnvoyProcess
from integration.harness.envoy_config import Bootstrap, Route
from integration.harness.processes import ProcessError

KEY = "orders"
"""Route key of a lane with one route."""
_HOSTS = 1000
_ATTEMPTS = 4
_PORT_TAKEN = "in use"
"""In the log of a server that finds its port taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How our engine is started."""

    chain: Chain
    transport: str = "native"
    workers: int = 1
    socket_each: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What is measured under `name`. `server` None is Envoy without the filter; several `routes` have a domain each,
    and the hosts of `spread_hosts` reach all of them. `rate` is in requests per second, None for full speed.
    """

    name: str
    server: Peer | Engine | None
    phases: Phases = Phases.REQUEST
    request: Request = field(default_factory=Request)
    connections: int = 64
    rate: int | None = None
    routes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One slice of a lane. CPU is per request in µs, over all processes of server and Envoy; `messages` is how many
    messages of `ext_proc` Envoy sent for each request: proof that the server was asked, and for the phases meant.
    """

    outcome: Outcome
    messages: float
    server_cpu_us: float
    envoy_cpu_us: float
    server_rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A lane whose processes serve."""

    lane: Lane
    directory: Path
    proxy: EnvoyProcess
    envoy: Envoy
    server: PeerServer | EngineServer | None

    def measure(self, seconds: float) -> Measured:
        """Send load for `seconds` and account for it."""
        before_messages = self._messages()
        before_server, before_envoy = self._server_usage(), usage(self.proxy.pid)
        outcome = self._send(seconds)
        after_server, after_envoy = self._server_usage(), usage(self.proxy.pid)
        return Measured(
            outcome=outcome,
            messages=(self._messages() - before_messages) / outcome.requests,
            server_cpu_us=(after_server.cpu_s - before_server.cpu_s) / outcome.requests * 1e6,
            envoy_cpu_us=(after_envoy.cpu_s - before_envoy.cpu_s) / outcome.requests * 1e6,
            server_rss_bytes=after_server.rss_bytes,
        )

    def _send(self, seconds: float) -> Outcome:
        lane = self.lane
        common: dict[str, Any] = {"connections": lane.connections, "seconds": seconds, "directory": self.directory}
        if lane.rate is None:
            return full_speed(self.envoy.port, lane.request, **common)
        return fixed_rate(self.envoy.port, lane.request, rate=lane.rate, **common)

    def _messages(self) -> int:
        return self.envoy.counter("http.ingress.ext_proc.stream_msgs_sent")

    def _server_usage(self) -> Usage:
        return usage(self.server.pid) if self.server else Usage(0.0, 0)


@contextmanager
def started(lanes: Sequence[Lane], upstream_port: int, directory: Path) -> Iterator[list[Running]]:
    """Start everything that `lanes` need, files in `directory`; stop it all at the end."""
    with ExitStack() as parts:
        servers: list[PeerServer | EngineServer | None] = []
        places = []
        for number, lane in enumerate(lanes):
            place = directory / f"lane-{number}"
            place.mkdir(parents=True)
            server = _server(lane, place)
            if server is not None:
                parts.enter_context(server)
            servers.append(server)
            places.append(place)
        proxies = []
        for number, (lane, place) in enumerate(zip(lanes, places, strict=True)):
            servers[number], addresses = _ready(lane, servers[number], place, parts)
            proxies.append(parts.enter_context(EnvoyProcess(_bootstrap(lane, addresses, upstream_port), place)))
        yield [
            Running(lane=lane, directory=place, proxy=proxy, envoy=proxy.ready(), server=server)
            for lane, place, proxy, server in zip(lanes, places, proxies, servers, strict=True)
        ]


def _ready(
    lane: Lane, server: PeerServer | EngineServer | None, place: Path, parts: ExitStack
) -> tuple[PeerServer | EngineServer | None, Sequence[Address] | None]:
    """Return the server and where it listens, once it does; another one where somebody was quicker to take its port."""
    attempts = 1
    while server is not None:
        try:
            return server, server.ready()
        except ProcessError:
            if attempts == _ATTEMPTS or _PORT_TAKEN not in server.log().lower():
                raise
            server.stop()
        attempts += 1
        again = place / f"attempt-{attempts}"
        again.mkdir()
        server = _server(lane, again)
        if server is not None:
            parts.enter_context(server)
    return None, None


def spread_hosts(routes: int) -> list[str]:
    """Return hosts that belong to `routes` domains evenly; always as many, so that only the routes differ."""
    return [f"host-{number:03}.service-{number % routes}.test" for number in range(_HOSTS)]


def _keys(lane: Lane) -> list[str]:
    return [KEY] if lane.routes == 1 else [f"service-{number}" for number in range(lane.routes)]


def ext_proc_settings(lane: Lane) -> Mapping[str, Any]:
    """Return the filter's settings: the phases of the chain; peers get no attributes, since they need none."""
    settings: dict[str, Any] = {"processing_mode": lane.phases.processing_mode()}
    return settings if isinstance(lane.server, Engine) else {**settings, "request_attributes": []}


def _server(lane: Lane, place: Path) -> PeerServer | EngineServer | None:
    if isinstance(lane.server, Peer):
        return PeerServer(lane.server, place)
    if isinstance(lane.server, Engine):
        engine = lane.server
        routes = dict.fromkeys(_keys(lane), engine.chain)
        return EngineServer(
            place, routes, transport=engine.transport, workers=engine.workers, socket_each=engine.socket_each
        )
    return None


def _bootstrap(lane: Lane, addresses: Sequence[Address] | None, upstream_port: int) -> Bootstrap:
    if lane.routes == 1:
        routes = [Route(prefix="/", name=KEY)]
    else:
        routes = [Route(prefix="/", name=key, domain=f"*.{key}.test") for key in _keys(lane)]
    return Bootstrap(
        routes=routes,
        engine=addresses,
        upstream_port=upstream_port,
        ext_proc={} if lane.server is None else ext_proc_settings(lane),
    )
