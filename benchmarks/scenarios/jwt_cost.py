"""What a JSON Web Token costs: through Envoy, and in one process beside plain PyJWT with the same token and key."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jwt

from benchmarks.run.course import Course, interleaved
from benchmarks.run.lanes import Engine, Lane
from benchmarks.run.load import ORDINARY_HEADERS, Request
from benchmarks.run.results import Sample
from benchmarks.scenarios import chains
from integration.harness.tokens import Issuer
from policy_engine.sdk.testing import load_policy, request

SCENARIO = "jwt"
PYJWT, POLICY, POLICY_CACHED = "PyJWT, in process", "policy, in process", "policy with cache, in process"
_A_DAY_S = 24 * 3600
_CACHED = 1000
_CALLS = 2000
_POLICY = Path(__file__).parent.parent.parent / "policies" / "jwt-validation" / "v2_0_0"


def run(course: Course) -> list[Sample]:
    """Measure the lanes and, in each round, the three ways in this process."""
    issuer = Issuer()
    token = issuer.token(exp=int(time.time()) + _A_DAY_S, scope="orders:read orders:write", email="alice@example.com")
    headers = {**ORDINARY_HEADERS, "authorization": f"Bearer {token}"}
    sent = Request(headers=headers)
    ways = _ways(issuer, token)

    def beside(number: int) -> Sequence[Sample]:
        return [
            Sample(scenario=SCENARIO, lane=name, round=number, values={"server_cpu_us": _cpu_us(call)})
            for name, call in ways.items()
        ]

    lanes = [
        Lane(name="no policy", server=Engine(chain=[]), request=sent),
        Lane(name="api-key-validation, for comparison", server=Engine(chain=[chains.api_key()]), request=sent),
        Lane(name="jwt-validation", server=Engine(chain=[chains.jwt(issuer.jwks())]), request=sent),
        Lane(
            name="jwt-validation with cache",
            server=Engine(chain=[chains.jwt(issuer.jwks(), cached=_CACHED)]),
            request=sent,
        ),
    ]
    return interleaved(SCENARIO, lanes, course, beside)


def _ways(issuer: Issuer, token: str) -> dict[str, Callable[[], object]]:
    key = issuer.keys[0].private.public_key()

    def pyjwt() -> Any:
        return jwt.decode(token, key, algorithms=["RS256"], audience="orders", issuer=issuer.issuer, leeway=30)

    return {PYJWT: pyjwt, POLICY: _policy_call(issuer, token, 0), POLICY_CACHED: _policy_call(issuer, token, _CACHED)}


def _policy_call(issuer: Issuer, token: str, cached: int) -> Callable[[], object]:
    policy = load_policy(_POLICY, chains.jwt(issuer.jwks(), cached=cached)["parameters"])
    asked = request(headers={**ORDINARY_HEADERS, "authorization": f"Bearer {token}"})
    if policy.on_request_headers(asked) is not None:
        raise AssertionError("the token was refused")
    return lambda: policy.on_request_headers(asked)


def _cpu_us(call: Callable[[], object]) -> float:
    before = time.process_time()
    for _ in range(_CALLS):
        call()
    return (time.process_time() - before) / _CALLS * 1e6
