"""What one engine has to carry at once (R-14): 50 policy versions, 100 routes, chains of ten, 10,000 requests in flight.

Envoy runs on what `policy-engine envoy-config` writes for it, limits and all.
"""

from __future__ import annotations

import asyncio
import copy
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from integration.harness.burst import burst
from integration.harness.chain_file import policy
from integration.harness.exchange import Answer, HeaderList, header_values
from integration.runtime_stack import connection_manager, eventually, generated, resident_bytes
from policy_engine.envoy.filter_config import ENGINE_CLUSTER, HTTP_OPTIONS
from testsupport.policy_directories import write_policy

POLICIES, VERSIONS, ROUTES, CHAIN = 11, 5, 120, 10
IN_FLIGHT = 10_000
BYTES_PER_REQUEST = 32 * 1024
"""More than three times what a request in flight was seen to take; a leak or a copied body is far above."""

MANIFEST = """\
name: {name}
version: {version}
description: For a test of scale; leaves its mark on requests and responses.
entrypoint: policy:Mark
phases: [request_headers, response_headers]
parameters: {{type: object, additionalProperties: false}}
examples: [{{description: The only one, parameters: {{}}}}]
"""
CODE = """\
from policy_engine.sdk import Policy, RequestMutation, ResponseMutation


class Mark(Policy):
    def __init__(self, parameters):
        self._marks = [("x-mark", "{version}")]

    def on_request_headers(self, request):
        return RequestMutation(append_headers=self._marks)

    def on_response_headers(self, request, response):
        return ResponseMutation(append_headers=[("x-mark", "{version} " + request.route)])
"""


def version(number: int) -> str:
    return f"v{number}.0.0"


def chain_of(route: int) -> list[tuple[str, str]]:
    """Ten policies for a route, all of different names, so that all routes together use every version."""
    return [(f"mark-{(route + place) % POLICIES}", version(1 + (route + place) % VERSIONS)) for place in range(CHAIN)]


CHAINS = {f"r{route}": [policy(*one) for one in chain_of(route)] for route in range(ROUTES)}


def as_expected(target: str, status: int, headers: HeaderList) -> str:
    """Say `ok` for what the route's own ten policies made of the upstream's answer."""
    route = target.strip("/")
    marks = [f"{number} {route}" for _, number in reversed(chain_of(int(route[1:])))]
    if (status, header_values(headers, "x-mark"), header_values(headers, "x-sent")) != (200, marks, [route]):
        return f"{status} {header_values(headers, 'x-mark')}"
    return "ok"


def as_an_operator_would(config: Any) -> None:
    """Let requests be slow, and take an upstream of HTTP/2, which needs few sockets for many requests."""
    for route in connection_manager(config)["route_config"]["virtual_hosts"][0]["routes"]:
        if "route" in route:  # the last one answers by itself
            route["route"]["timeout"] = "80s"
    engine, upstream = config["static_resources"]["clusters"]
    options = copy.deepcopy(engine["typed_extension_protocol_options"])
    # The tests' upstream looks at all streams of a connection whenever one opens.
    options[HTTP_OPTIONS]["explicit_http_config"]["http2_protocol_options"]["max_concurrent_streams"] = 250
    upstream["typed_extension_protocol_options"] = options


def test_ten_thousand_requests_in_flight_over_all_routes(tmp_path: Path) -> None:
    for number in range(POLICIES):
        for one in range(1, VERSIONS + 1):
            write_policy(tmp_path, f"mark-{number}", version(one), manifest=MANIFEST, code=CODE)
    assert len({one for route in range(ROUTES) for one in chain_of(route)}) == POLICIES * VERSIONS > 50
    with generated(CHAINS, policies=tmp_path, change=as_an_operator_would) as runtime:
        eventually(lambda: runtime.send("/r0/").status == 200, "serving")
        runtime.upstream.received.clear()
        runtime.upstream.answer_with(lambda request: Answer(headers=[("x-sent", request.target.strip("/"))]))
        runtime.upstream.hold()
        idle = resident_bytes(runtime.engine.pid)
        targets = [f"/r{number % ROUTES}/" for number in range(IN_FLIGHT)]
        outcomes: list[Counter[str]] = []
        sending = threading.Thread(
            target=lambda: outcomes.append(asyncio.run(burst(runtime.envoy.port, targets, as_expected, timeout_s=75)))
        )
        sending.start()
        try:
            eventually(lambda: len(runtime.upstream.received) == IN_FLIGHT, f"{IN_FLIGHT} at the upstream", 60)
            assert runtime.envoy.counter(f"cluster.{ENGINE_CLUSTER}.upstream_rq_active") == IN_FLIGHT
            assert runtime.active() == IN_FLIGHT
            grown = resident_bytes(runtime.engine.pid) - idle
        finally:
            runtime.upstream.release()
            sending.join()
        assert outcomes == [Counter(ok=IN_FLIGHT)]
        marks = runtime.upstream.received[-1]
        assert marks.values("x-mark") == [number for _, number in chain_of(int(marks.target.strip("/r")))]
        eventually(lambda: runtime.active() == 0, "without streams")
        assert runtime.value("policy_engine_worker_restarts_total") == 0
        print(f"{grown / IN_FLIGHT:.0f} bytes a request in flight, {idle >> 20} MiB before", file=sys.stderr)
        assert grown < IN_FLIGHT * BYTES_PER_REQUEST
