"""Keys with stars, alternatives, shares, shared lists and limits of routes, through Envoy as clients meet them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.harness.chain_file import Document
from integration.runtime_stack import Runtime, eventually, started

POLICIES = Path(__file__).resolve().parent.parent / "policies"
KEY = "8254c329a92850f6d539dd376f4816ee2764517da5e0235514af433164480d7a"
"""SHA-256 of `k`."""


def entry(name: str, **parameters: object) -> Document:
    return {"name": name, "version": "v1", "parameters": parameters}


API_KEY = entry("api-key-validation", keys=[{"client": "partner", "sha256": KEY}])
BASIC = entry(
    "basic-auth",
    realm="people",
    users=[{"name": "ann", "password_hash": f"scrypt$16384$8$1${'A' * 22}==${'A' * 43}="}],
)


def marked(value: str) -> Document:
    return entry("set-header", response={"set": {"x-by": value}})


CHAINS: dict[str, list[Document]] = {
    "shop-orders-special": [marked("own key")],
    "shop-*": [marked("shop-*")],
    "*": [marked("default")],
    "either": [{"any_of": [API_KEY, BASIC]}],
    "either-in-shadow": [{"any_of": [API_KEY, BASIC], "mode": "shadow"}],
    "half": [{**marked("inside"), "share": {"percent": 50, "by": 'request.headers["x-user"]'}}],
    "shop-orders": [],
    "elsewhere": [],
}


def runtime_chains() -> dict[str, list[Document]]:
    """The chains, but for routes of Envoy that patterns are for."""
    return {name: chain for name, chain in CHAINS.items() if name not in ("shop-orders", "elsewhere")}


@pytest.fixture(scope="module")
def runtime(transport: str) -> Iterator[Runtime]:
    with started(CHAINS, transport=transport, policies=POLICIES) as runtime:
        runtime.swap(runtime_chains())
        yield runtime


def by(runtime: Runtime, route: str, **headers: str) -> str | None:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return runtime.send(f"/{route}/", headers=named).header("x-by")


def test_the_most_specific_key_wins(runtime: Runtime) -> None:
    assert by(runtime, "shop-orders-special") == "own key"
    assert by(runtime, "shop-orders") == "shop-*"
    assert by(runtime, "elsewhere") == "default"
    assert runtime.value("policy_engine_requests_total", route="shop-*") == 1
    assert runtime.value("policy_engine_unmapped_requests_total") == 0


def test_one_of_the_alternatives_is_enough(runtime: Runtime) -> None:
    assert runtime.send("/either/", headers=[("x-api-key", "k")]).status == 200
    for wrong, status in (((), 401), ([("x-api-key", "wrong"), ("authorization", "Basic YW5uOm5v")], 403)):
        denied = runtime.send("/either/", headers=wrong)
        assert denied.status == status
        challenges = ",".join(denied.values("www-authenticate"))
        assert 'Basic realm="people"' in challenges
        assert status == 403 or "Basic" not in challenges.partition(",")[0], "the first way comes first"
    assert runtime.send("/either-in-shadow/").status == 200
    assert runtime.value("policy_engine_policy_shadow_total", route="either-in-shadow", policy="any_of") == 1


def test_a_user_stays_on_one_side(runtime: Runtime) -> None:
    sides = {user: by(runtime, "half", x_user=f"user-{user}") for user in range(60)}
    assert 10 < sum(side == "inside" for side in sides.values()) < 50
    runtime.swap({**runtime_chains(), "new": []})
    assert {user: by(runtime, "half", x_user=f"user-{user}") for user in range(60)} == sides


def test_what_keys_without_a_chain_do_and_how_large_bodies_may_be(runtime: Runtime) -> None:
    read = entry("json-schema-validation", request={"schema": {}})
    document = {
        "version": "v1",
        "shared": {"usual": [marked("usual")]},
        "routes": [
            {"route_key": "*", "unmapped": "pass"},
            {"route_key": "shop-*", "unmapped": "deny"},
            {"route_key": "either", "policies": [{"use": "usual"}, read], "body_limit": "1KiB"},
        ],
    }
    runtime.chains.write(document)
    eventually(lambda: by(runtime, "either") == "usual", "active")
    assert runtime.send("/elsewhere/").status == 200
    assert runtime.send("/shop-orders/").status == 500
    json = [("content-type", "application/json")]
    assert runtime.send("/either/", method="POST", headers=json, body=b"[" + b" " * 1022 + b"]").status == 200
    assert runtime.send("/either/", method="POST", headers=json, body=b"[" + b" " * 1023 + b"]").status == 413
    runtime.swap(CHAINS)
