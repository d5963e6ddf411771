"""Measures the CPU time of one condition, binding included, as it runs and in both CEL engines: docs/conditions.md.

PYTHONPATH=engine python benchmarks/conditions.py
"""

from __future__ import annotations

import time
import timeit

from policy_engine.sdk import Headers, Request, Response
from policy_engine.worker.conditions import celcpp, celpy
from policy_engine.worker.conditions.condition import Engine, compile_condition
from policy_engine.worker.conditions.direct import compile_direct
from policy_engine.worker.conditions.source import read_source

CONDITIONS = (
    'request.path.startsWith("/api") && request.method == "GET"',
    '"x-kind" in request.headers && request.headers["x-kind"] == "a"',
    'request.headers.exists(name, name == "x-kind")',
    'metadata.user.name == "ann"',
    'request.path.matches("^/api/v[0-9]+/")',
    'request.query.x == "1"',
    "response.status >= 200 && response.status < 300",
)
REPEATS = 15


def microseconds(text: str, engine: Engine, count: int, *, direct: bool = False) -> float:
    """Return the CPU time of one evaluation: the best of REPEATS rounds of `count`."""
    condition = compile_condition(text, phase_has_response=True, engine=engine, direct=direct)
    pairs = [
        (":method", b"GET"),
        (":path", b"/api/v1/users?x=1"),
        (":authority", b"a.example:80"),
        (":scheme", b"https"),
    ]
    pairs += [(f"header-{number}", b"value of some length") for number in range(9)] + [("x-kind", b"a")]
    request = Request(Headers(pairs), metadata={"user": {"name": "ann"}})
    response = Response(Headers.of({":status": "200"}))
    rounds = timeit.repeat(
        lambda: condition.evaluate(request, response), number=count, repeat=REPEATS, timer=time.process_time
    )
    return min(rounds) / count * 1e6


def main() -> None:
    """Print a Markdown table."""
    print("| condition | without an engine | cel-expr-python | cel-python |")
    print("|---|---|---|---|")
    for text in CONDITIONS:
        known = compile_direct(read_source(text)) is not None
        plain = f"{microseconds(text, celcpp, 20_000, direct=True):.1f}" if known else "-"
        fast = microseconds(text, celcpp, 20_000)
        slow = microseconds(text, celpy, 200)
        print(f"| `{text}` | {plain} | {fast:.1f} | {slow:.0f} |")


if __name__ == "__main__":
    main()
