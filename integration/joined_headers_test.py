"""Repeated headers and spellings of a host through Envoy, which joins lines before any policy sees them."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.harness.chain_file import Document, policy
from integration.runtime_stack import Runtime, started

POLICIES = Path(__file__).parent.parent / "policies"
KEY = "mobile-key"
SECRET = "0123456789abcdef0123456789abcdef"
JWT = {
    "issuer": "https://issuer.test",
    "audiences": ["orders"],
    "algorithms": ["HS256"],
    "jwk_set": {"keys": [{"kty": "oct", "k": b64encode(SECRET.encode()).decode().rstrip("=")}]},
}
PASSWORD = hashlib.pbkdf2_hmac("sha256", b"open", b"saltsalt", 100_000)
USER = {
    "name": "alice",
    "password_hash": f"pbkdf2-sha256$100000${b64encode(b'saltsalt').decode()}${b64encode(PASSWORD).decode()}",
}
API_KEY = {
    "name": "authorization",
    "prefix": "ApiKey ",
    "keys": [{"client": "mobile", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}],
}
SCHEMA = {"request": {"other_content_types": "pass", "schema": {"type": "object", "required": ["item"]}}}
MASKED = {"directions": ["request"]}
CHAINS: dict[str, list[Document]] = {
    "plain": [],
    "jwt": [policy("jwt-validation", "v1.0.0", JWT, timeout="20s")],
    "basic": [policy("basic-auth", "v1.0.0", {"users": [USER]}, timeout="20s")],
    "key": [policy("api-key-validation", "v1.0.0", API_KEY)],
    "checked": [policy("json-schema-validation", "v1.0.0", SCHEMA, timeout="20s")],
    "masked": [policy("pii-masking", "v1.0.0", MASKED, timeout="20s")],
    "host": [policy("respond", "v1.0.0", {"status": 403}, condition='request.host == "admin.example.com"')],
}


@pytest.fixture(scope="module")
def runtime(transport: str) -> Iterator[Runtime]:
    with started(CHAINS, transport=transport, policies=POLICIES) as runtime:
        yield runtime
        assert runtime.value("policy_engine_handler_errors_total") == 0


@pytest.mark.parametrize(
    ("route", "good"),
    [("jwt", "Bearer x.y.z"), ("basic", "Basic " + b64encode(b"alice:open").decode()), ("key", f"ApiKey {KEY}")],
)
def test_two_authorization_lines_are_a_bad_request(runtime: Runtime, route: str, good: str) -> None:
    scheme = good.partition(" ")[0]
    assert runtime.send(f"/{route}/", headers=[("authorization", good)]).status == (401 if route == "jwt" else 200)
    for other in (good, f"{scheme} other", "Digest a=b"):
        assert runtime.send(f"/{route}/", headers=[("authorization", good), ("authorization", other)]).status == 400
        assert runtime.send(f"/{route}/", headers=[("authorization", other), ("authorization", good)]).status == 400


def test_a_second_content_type_line_is_no_way_round_a_check(runtime: Runtime) -> None:
    def post(*kinds: str, body: bytes = b"{}") -> int:
        headers = [("content-type", kind) for kind in kinds]
        return runtime.send("/checked/", method="POST", headers=headers, body=body).status

    json_type = "application/json"
    assert (post(json_type), post(json_type, json_type), post("text/plain")) == (422, 422, 200)
    assert (post(json_type, "text/plain"), post("text/plain", json_type)) == (415, 415)
    assert post(json_type, json_type, body=json.dumps({"item": 1}).encode()) == 200


def test_a_second_content_type_line_is_no_way_round_masking(runtime: Runtime) -> None:
    def sent(*kinds: str, body: bytes = b"a@b.example") -> tuple[int, bytes]:
        headers = [("content-type", kind) for kind in kinds]
        reply = runtime.send("/masked/", method="POST", headers=headers, body=body)
        return reply.status, bytes(runtime.upstream.last().body) if reply.status == 200 else b""

    assert sent("text/plain", "text/plain") == (200, b"***")
    assert sent("text/plain", "image/png")[0] == 415
    assert sent("image/png", "text/plain")[0] == 415
    assert sent("text/plain", body="a@b.example".encode("utf-16"))[0] == 415
    assert sent("text/plain", body="a@b.example".encode("utf-16-le"))[0] == 415


@pytest.mark.parametrize(
    "host",
    ["admin.example.com", "ADMIN.example.com", "admin.example.com.", "Admin.Example.com.:80", "admin.example.com:8443"],
)
def test_a_condition_on_the_host_holds_for_every_spelling(runtime: Runtime, host: str) -> None:
    assert runtime.send("/host/", headers=[("host", host)]).status == 403
    assert runtime.send("/host/", headers=[("host", f"x{host}")]).status == 200
