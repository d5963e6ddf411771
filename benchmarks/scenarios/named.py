"""The named scenarios of `--scenario`: which lanes each compares, and how often."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from benchmarks.run.course import Course, interleaved
from benchmarks.run.lanes import Engine, Lane, spread_hosts
from benchmarks.run.load import Request
from benchmarks.run.results import Sample
from benchmarks.run.servers import Peer
from benchmarks.scenarios import chains, in_flight, jwt_cost, worker_killed
from benchmarks.scenarios.chains import Chain, Phases

NO_FILTER = "Envoy without filter"
AIO, AIO_BOTH = "grpc.aio", "grpc.aio, both phases"
THREADS = "grpc threads"
CPP, CPP_BOTH = "C++", "C++, both phases"
CONSTANT, CONSTANT_BOTH = "constant answers", "constant answers, both phases"
RATE = 1000
"""Requests per second of the scenario `latency`."""
_RATE_CONNECTIONS = 20
_KB = 1000


def native(what: str) -> str:
    """Return the lane's name of our engine on the native transport."""
    return f"native, {what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`run` returns the samples; `quick` says that `--quick` includes it, `heading` what the report calls it.

    `lanes` are the names of those that `--lane` can choose; `compiled` tells that the C++ peer is among them.
    """

    name: str
    heading: str
    run: Callable[[Course], list[Sample]]
    quick: bool = False
    lanes: Sequence[str] = ()
    compiled: bool = False


def engine(what: str, chain: Chain, phases: Phases = Phases.REQUEST, transport: str = "native") -> Lane:
    """Return a lane of our engine."""
    return Lane(name=f"{transport}, {what}", server=Engine(chain=chain, transport=transport), phases=phases)


def peer(name: str, which: Peer, phases: Phases = Phases.REQUEST) -> Lane:
    """Return a lane of a peer."""
    return Lane(name=name, server=which, phases=phases)


def scenarios(*, cpp: bool, only: Collection[str] = ()) -> dict[str, Scenario]:
    """Return all scenarios by name; without `cpp`, none of them has the C++ peer.

    With `only`, those that have lanes of these names, and no others in them.
    """

    def of_lanes(name: str, heading: str, lanes: Sequence[Lane], *, quick: bool = False) -> Scenario:
        chosen = [lane for lane in lanes if cpp or lane.server is not Peer.CPP]
        if only:
            chosen = [lane for lane in chosen if lane.name in only]
        return Scenario(
            name=name,
            heading=heading,
            run=lambda course: interleaved(name, chosen, course),
            quick=quick,
            lanes=[lane.name for lane in chosen],
            compiled=any(lane.server is Peer.CPP for lane in chosen),
        )

    every = [
        of_lanes("throughput", "Headers only, at full speed (64 connections)", _throughput(), quick=True),
        of_lanes("latency", f"At {RATE:,} requests per second", _latency(), quick=True),
        of_lanes("body-10k", "A buffered request body of 10 KB", _bodies(10 * _KB)),
        of_lanes("body-100k", "A buffered request body of 100 KB", _bodies(100 * _KB)),
        of_lanes("conditions", "CEL conditions", _conditions()),
        Scenario(name="jwt", heading="JSON Web Tokens (RS256)", run=jwt_cost.run),
        of_lanes("routes", "Growth with routes (a domain each; 1,000 hosts in turn in every lane)", _routes()),
        of_lanes("chain", "Growth with the policies of a chain (set-header, each a header of its own)", _chain()),
        of_lanes("workers", "Worker processes (a Unix socket each)", _workers()),
        of_lanes("connections", "Growth with connections", _connections()),
        Scenario(name="in-flight", heading="10,000 requests in flight at once", run=in_flight.run, quick=True),
        Scenario(name="worker-killed", heading="A worker killed under load", run=worker_killed.run),
        of_lanes("smoke", "A look at whether everything runs", _smoke()),
    ]
    return {scenario.name: scenario for scenario in every if scenario.lanes or not only}


NOT_IN_A_FULL_RUN = frozenset({"smoke"})


def _smoke() -> list[Lane]:
    return [Lane(name=NO_FILTER, server=None), engine("5 policies", chains.five(), Phases.BOTH)]


def _throughput() -> list[Lane]:
    lanes = [
        Lane(name=NO_FILTER, server=None),
        peer(AIO, Peer.GRPC_AIO),
        peer(AIO_BOTH, Peer.GRPC_AIO, Phases.BOTH),
        peer(THREADS, Peer.GRPC_THREADS),
        peer(CPP, Peer.CPP),
        peer(CPP_BOTH, Peer.CPP, Phases.BOTH),
        peer(CONSTANT, Peer.CONSTANT),
        peer(CONSTANT_BOTH, Peer.CONSTANT, Phases.BOTH),
    ]
    for transport in ("native", "grpcio"):
        lanes += [
            engine("no policy", [], Phases.REQUEST, transport),
            engine("set-header", [chains.set_header()], Phases.REQUEST, transport),
            engine("set-header, both phases", [chains.set_both()], Phases.BOTH, transport),
            engine("5 policies", chains.five(), Phases.BOTH, transport),
            engine("10 policies", chains.ten(), Phases.BOTH, transport),
        ]
    return lanes


def _latency() -> list[Lane]:
    big = Request(body_bytes=100 * _KB)
    body = [chains.read_body()]
    lanes = [
        Lane(name=NO_FILTER, server=None),
        peer(AIO, Peer.GRPC_AIO),
        peer(CPP, Peer.CPP),
        engine("set-header", [chains.set_header()]),
        engine("5 policies", chains.five(), Phases.BOTH),
        Lane(name=f"{NO_FILTER}, 100 KB", server=None, request=big),
        replace(engine("100 KB", body, Phases.BODY), request=big),
    ]
    return [replace(lane, rate=RATE, connections=_RATE_CONNECTIONS) for lane in lanes]


def _bodies(size: int) -> list[Lane]:
    body = [chains.read_body()]
    lanes = [
        Lane(name=NO_FILTER, server=None),
        peer(AIO, Peer.GRPC_AIO, Phases.BODY),
        peer(CPP, Peer.CPP, Phases.BODY),
        engine("read-body", body, Phases.BODY),
        engine("read-body", body, Phases.BODY, "grpcio"),
    ]
    return [replace(lane, request=Request(body_bytes=size)) for lane in lanes]


def _conditions() -> list[Lane]:
    def several(condition: str | None) -> Chain:
        keys = {"condition": condition} if condition else {}
        return [chains.set_header(f"x-gateway-{number}", **keys) for number in range(5)]

    return [
        engine("set-header", [chains.set_header()]),
        engine("set-header, condition true", [chains.set_header(condition=chains.CONDITION)]),
        engine("set-header, condition false", [chains.set_header(condition=chains.NEVER)]),
        engine("5 set-header", several(None)),
        engine("5 set-header, conditions true", several(chains.CONDITION)),
        engine("5 set-header, conditions false", several(chains.NEVER)),
    ]


def _routes() -> list[Lane]:
    lanes = []
    for count in (1, 10, 100, 1000):
        lane = engine(f"{count} route{'s' * (count > 1)}", chains.five(), Phases.BOTH)
        lanes.append(replace(lane, routes=count, request=Request(hosts=spread_hosts(count))))
    return lanes


def _chain() -> list[Lane]:
    return [
        engine(f"{count} of set-header", [chains.set_header(f"x-gateway-{number}") for number in range(count)])
        for count in (1, 2, 5, 10, 20)
    ]


def _workers() -> list[Lane]:
    lanes = [Lane(name=NO_FILTER, server=None)]
    for workers in (1, 2):
        server = Engine(chain=chains.five(), workers=workers, socket_each=True)
        name = native(f"{workers} worker{'s' * (workers > 1)}")
        lanes.append(Lane(name=name, server=server, phases=Phases.BOTH))
    return lanes


def _connections() -> list[Lane]:
    lanes = []
    for count in (16, 64, 256, 1024):
        of_engine = engine(f"{count} connections", chains.five(), Phases.BOTH)
        of_peer = peer(f"{CPP}, {count} connections", Peer.CPP, Phases.BOTH)
        lanes += [replace(of_engine, connections=count), replace(of_peer, connections=count)]
    return lanes
