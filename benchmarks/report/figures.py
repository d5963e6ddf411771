"""The figures that the engine is to reach, each worked out from the rounds of one interleaved run.

A ratio is taken round by round, between slices that lie seconds apart, and the median of these counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.run.results import Results, Spread
from benchmarks.scenarios import in_flight, jwt_cost, worker_killed
from benchmarks.scenarios.named import (
    AIO,
    AIO_BOTH,
    CONSTANT,
    CONSTANT_BOTH,
    CPP,
    CPP_BOTH,
    NO_FILTER,
    native,
)

_KB = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What is to be reached: at least `least` or at most `most`; neither: told for comparison only."""

    what: str
    values: Callable[[Results], Sequence[float]]
    least: float | None = None
    most: float | None = None
    unit: str = ""

    def target(self) -> str:
        """Return the target as people write it."""
        if self.least is not None:
            return f"≥ {self.least:g}{self.unit}"
        return f"≤ {self.most:g}{self.unit}" if self.most is not None else "-"

    def reached(self, value: float) -> bool | None:
        """Tell whether `value` is good enough; None when there is no target."""
        if self.least is not None:
            return value >= self.least
        return value <= self.most if self.most is not None else None


def figures() -> Sequence[Figure]:
    """Return all figures."""
    one, five, ten = native("set-header"), native("5 policies"), native("10 policies")
    speed, cpu = "per_second", "server_cpu_us"

    def ratio(
        what: str, name: str, lane: str, other: str, *, least: float | None = None, most: float | None = None
    ) -> Figure:
        return Figure(what=what, values=_ratio("throughput", name, lane, other), least=least, most=most)

    return [
        ratio("set-header: throughput / grpc.aio", speed, one, AIO, least=2.5),
        ratio("set-header: throughput / C++", speed, one, CPP, least=1.2),
        ratio("set-header: engine CPU / grpc.aio", cpu, one, AIO, most=0.12),
        ratio("5 policies (both phases): throughput / C++ (request phase only)", speed, five, CPP, least=1.0),
        ratio("5 policies (both phases): throughput / C++ (both phases)", speed, five, CPP_BOTH),
        ratio("5 policies (both phases): engine CPU / grpc.aio (request phase only)", cpu, five, AIO, most=0.25),
        ratio("5 policies (both phases): engine CPU / grpc.aio (both phases)", cpu, five, AIO_BOTH),
        # What a server without any work of its own reaches here: the most that the figures above can be.
        ratio("constant answers: throughput / grpc.aio", speed, CONSTANT, AIO),
        ratio("constant answers: throughput / C++", speed, CONSTANT, CPP),
        ratio("constant answers (both phases): throughput / C++ (request phase only)", speed, CONSTANT_BOTH, CPP),
        ratio("set-header: throughput / constant answers", speed, one, CONSTANT),
        ratio("5 policies: throughput / constant answers (both phases)", speed, five, CONSTANT_BOTH),
        # Throughput is also what other programs leave of the machine; the CPU that both sides take is not.
        Figure(what="set-header: CPU of server and Envoy / the same with C++", values=_both("throughput", one, CPP)),
        Figure(
            what="5 policies (both phases): CPU of server and Envoy / the same with C++ (both phases)",
            values=_both("throughput", five, CPP_BOTH),
        ),
        ratio("10 policies: engine CPU / 5 policies", cpu, ten, five, most=2.0),
        Figure(what="JWT: CPU added to the engine / PyJWT", values=_jwt("jwt-validation"), most=1.5),
        Figure(what="JWT: policy in process / PyJWT", values=_ratio("jwt", cpu, jwt_cost.POLICY, jwt_cost.PYJWT)),
        Figure(what="JWT with cache of verified tokens: CPU added / PyJWT", values=_jwt("jwt-validation with cache")),
        Figure(what="p95 added at 1,000/s, 5 policies", values=_added(five, NO_FILTER), most=2.0, unit=" ms"),
        Figure(
            what="p95 added at 1,000/s, buffered 100 KB body",
            values=_added(native("100 KB"), f"{NO_FILTER}, 100 KB"),
            most=10.0,
            unit=" ms",
        ),
        Figure(what="10,000 in flight: failed requests", values=_worst(in_flight.SCENARIO, "failed"), most=0),
        Figure(
            what="10,000 in flight: engine memory each",
            values=lambda results: [value / _KB for value in _worst(in_flight.SCENARIO, "each_bytes")(results)],
            most=10,
            unit=" KB",
        ),
        Figure(
            what="engine CPU with 1,000 routes / 1 route",
            values=_ratio("routes", cpu, native("1000 routes"), native("1 route")),
            most=1.05,
        ),
        Figure(what="killed worker: back after", values=_worst(worker_killed.SCENARIO, "back_s"), most=2.0, unit=" s"),
        *(
            Figure(
                what=f"killed worker: failed requests, {variant.name}",
                values=_of(worker_killed.SCENARIO, variant.name, "failed"),
                most=variant.most_failed,
            )
            for variant in worker_killed.VARIANTS
        ),
    ]


def spread_of(figure: Figure, results: Results) -> Spread | None:
    """Return the figure's value, None when the run did not measure it."""
    values = figure.values(results)
    return Spread.of(values) if values else None


def _of(scenario: str, lane: str, name: str) -> Callable[[Results], Sequence[float]]:
    return lambda results: results.values(scenario, lane, name)


def _ratio(scenario: str, name: str, lane: str, other: str) -> Callable[[Results], Sequence[float]]:
    def values(results: Results) -> Sequence[float]:
        pairs = zip(results.values(scenario, lane, name), results.values(scenario, other, name), strict=False)
        return [mine / others for mine, others in pairs if others]

    return values


def _both(scenario: str, lane: str, other: str) -> Callable[[Results], Sequence[float]]:
    def values(results: Results) -> Sequence[float]:
        mine, others = (
            [
                server + envoy
                for server, envoy in zip(
                    results.values(scenario, name, "server_cpu_us"),
                    results.values(scenario, name, "envoy_cpu_us"),
                    strict=True,
                )
            ]
            for name in (lane, other)
        )
        return [one / two for one, two in zip(mine, others, strict=False)]

    return values


def _jwt(lane: str) -> Callable[[Results], Sequence[float]]:
    def values(results: Results) -> Sequence[float]:
        with_token, without, alone = (
            results.values("jwt", name, "server_cpu_us") for name in (lane, "no policy", jwt_cost.PYJWT)
        )
        return [(one - two) / three for one, two, three in zip(with_token, without, alone, strict=False)]

    return values


def _added(lane: str, base: str) -> Callable[[Results], Sequence[float]]:
    def values(results: Results) -> Sequence[float]:
        pairs = zip(results.values("latency", lane, "p95_ms"), results.values("latency", base, "p95_ms"), strict=False)
        return [mine - plain for mine, plain in pairs]

    return values


def _worst(scenario: str, name: str) -> Callable[[Results], Sequence[float]]:
    def values(results: Results) -> Sequence[float]:
        return (
            [max(found)]
            if (found := [v for lane in results.lanes(scenario) for v in results.values(scenario, lane, name)])
            else []
        )

    return values
