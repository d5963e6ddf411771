"""jwt-validation v1 through the test kit and against a real JWKS server over TLS."""

from __future__ import annotations

import asyncio
import inspect
import json
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from typing import Any

import pytest

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.testing import Outcome, load_policy, request, run, run_async
from policy_jwt.testing import AUDIENCE, ISSUER, Authority, JwksServer, jwk, pem, segment, serve, token

BASIC = {"issuer": ISSUER, "audiences": [AUDIENCE]}


def policy(**parameters: Any) -> Policy:
    if not {"jwks", "jwk_set", "pem_keys"} & parameters.keys():
        parameters["jwk_set"] = {"keys": [jwk("one")]}
    return load_policy(__file__, {**BASIC, **parameters})


def send(subject: Policy, value: str | list[str], **headers: str) -> Outcome:
    return run(subject, request("GET", "/orders", headers={"authorization": value, **headers}))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority) -> Iterator[JwksServer]:
    with serve(JwksServer(jwk("one")), authority.server_context()) as running:
        yield running


def remote(server: JwksServer, authority: Authority, **settings: Any) -> Policy:
    # A long wait, as these tests are about what happens and not about how fast the machine is.
    return policy(jwks={"url": server.url, "ca_file": authority.ca_file, "request_wait": "20s", **settings})


def test_a_good_token_gets_in_and_its_claims_are_there_for_others() -> None:
    outcome = send(policy(), f"Bearer {token(scope='read')}")
    assert outcome.reached_upstream
    assert outcome.metadata["jwt"]["sub"] == "alice"
    assert outcome.metadata["jwt"]["scope"] == "read"
    assert outcome.request.headers["authorization"].startswith("Bearer ")
    assert outcome.steps[0].action is None


def test_claims_go_upstream_and_cannot_be_forged() -> None:
    subject = policy(subject_header="X-User", payload_header="x-claims", forward_token=False)
    outcome = send(subject, f"bearer  {token()}", **{"x-user": "root", "x-claims": "forged"})
    assert outcome.request.headers.get_all("x-user") == ("alice",)
    (payload,) = outcome.request.headers.get_all("x-claims")
    assert b'"sub":"alice"' in urlsafe_b64decode(payload + "==")
    assert "authorization" not in outcome.request.headers


def test_without_a_subject_the_forged_one_still_goes() -> None:
    outcome = send(policy(subject_header="x-user"), f"Bearer {token(sub=None)}", **{"x-user": "root"})
    assert outcome.reached_upstream
    assert "x-user" not in outcome.request.headers


def test_a_subject_that_is_no_header_value_is_refused() -> None:
    assert send(policy(subject_header="x-user"), f"Bearer {token(sub='a' + chr(10) + 'x-role: admin')}").status == 401


@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearerx y"])
def test_no_token_is_401_without_an_error_code(value: str | None) -> None:
    headers = {} if value is None else {"authorization": value}
    outcome = run(policy(realm="shop"), request(headers=headers))
    assert (outcome.status, outcome.reached_upstream) == (401, False)
    assert outcome.response.headers["www-authenticate"] == 'Bearer realm="shop"'  # RFC 6750, 3.1
    assert "jwt" not in outcome.metadata


UNSIGNED = f"{segment({'alg': 'none'})}.{segment({'iss': ISSUER, 'aud': AUDIENCE, 'exp': 1 << 33})}."


@pytest.mark.parametrize(
    "bad",
    [
        UNSIGNED,
        UNSIGNED + "AA",
        token(exp=1),
        token(nbf=1 << 33),
        token(iss="https://evil.example.test"),
        token(aud="payments"),
        token("other", headers={"kid": "one"}),
        token("nobody"),
        token(algorithm="RS384"),
        "a.b.c",
        "x" * 9000,
        "é.é.é",
    ],
)
def test_every_bad_token_gets_the_same_answer(bad: str) -> None:
    outcome = send(policy(), f"Bearer {bad}")
    assert (outcome.status, outcome.reached_upstream) == (401, False)
    assert outcome.response.headers["www-authenticate"] == 'Bearer realm="api", error="invalid_token"'
    assert json.loads(outcome.body or b"")["title"] == "Unauthorized"
    assert outcome.immediate is not None
    assert outcome.immediate.details.startswith("jwt_")
    assert "jwt" not in outcome.metadata


def test_two_tokens_are_refused_even_if_both_are_good() -> None:
    outcome = send(policy(), [f"Bearer {token()}", f"Bearer {token()}"])
    assert outcome.status == 400
    assert 'error="invalid_request"' in outcome.response.headers["www-authenticate"]


@pytest.mark.parametrize("joined", ["{t},{t}", "{t}, {t}", "Bearer x,{t}", "{t},Bearer", "Basic eDp5,{t}", "{t},"])
def test_two_lines_that_envoy_joined_are_two_tokens(joined: str) -> None:
    outcome = send(policy(), joined.format(t=f"Bearer {token()}"))
    assert (outcome.status, outcome.reached_upstream) == (400, False)


def test_another_header_without_a_scheme() -> None:
    subject = policy(token={"header": "X-Token", "prefix": ""})
    assert run(subject, request(headers={"x-token": token()})).reached_upstream
    assert send(subject, f"Bearer {token()}").status == 401


@pytest.mark.parametrize(
    ("kind", "algorithm"), [("RSA", "RS256"), ("RSA", "PS256"), ("P-256", "ES256"), ("Ed25519", "EdDSA")]
)
def test_pem_keys(kind: str, algorithm: str) -> None:
    subject = policy(pem_keys=[{"pem": pem("pem", kind), "kid": "pem"}])
    assert send(subject, f"Bearer {token('pem', kind, algorithm=algorithm)}").reached_upstream
    assert send(subject, f"Bearer {token('pem', kind, algorithm=algorithm, headers={'kid': 'x'})}").status == 401


def test_keys_at_hand_need_no_awaiting(server: JwksServer, authority: Authority) -> None:
    subject = remote(server, authority)
    ask = request(headers={"authorization": f"Bearer {token()}"})
    first = subject.on_request_headers(ask)
    assert inspect.isawaitable(first)

    async def wait() -> None:
        await first

    asyncio.run(wait())
    assert subject.on_request_headers(ask) is None
    assert server.requests == 1


def test_a_hundred_requests_wait_for_one_fetch_also_over_two_instances(
    server: JwksServer, authority: Authority
) -> None:
    chains = [remote(server, authority), remote(server, authority)]
    server.delay = 0.3

    async def main() -> list[Outcome]:
        ask = request(headers={"authorization": f"Bearer {token()}"})
        return await asyncio.gather(*(run_async(chains[number % 2], ask) for number in range(100)))

    assert [outcome.status for outcome in asyncio.run(main())] == [200] * 100
    assert server.requests == 1


def test_the_event_loop_runs_on_during_a_fetch(server: JwksServer, authority: Authority) -> None:
    subject, ticks = remote(server, authority), 0
    server.delay = 0.3

    async def main() -> int:
        nonlocal ticks
        waiting = asyncio.create_task(run_async(subject, request(headers={"authorization": f"Bearer {token()}"})))
        while not waiting.done():
            ticks += 1
            await asyncio.sleep(0.01)
        return (await waiting).status

    assert asyncio.run(main()) == 200
    assert ticks > 3


def test_rotation_the_first_token_with_the_new_key_gets_in(server: JwksServer, authority: Authority) -> None:
    subject = remote(server, authority, min_refresh_interval="0s")
    assert send(subject, f"Bearer {token('one')}").status == 200
    server.keys = [jwk("two")]
    assert send(subject, f"Bearer {token('two')}").status == 200
    assert send(subject, f"Bearer {token('one')}").status == 401, "the withdrawn key is gone"


def test_made_up_key_ids_do_not_reach_the_identity_provider(server: JwksServer, authority: Authority) -> None:
    subject = remote(server, authority, min_refresh_interval="1h")
    assert send(subject, f"Bearer {token()}").status == 200
    for number in range(50):
        assert send(subject, f"Bearer {token(headers={'kid': str(number)})}").status == 401
    assert send(subject, f"Bearer {token()}").status == 200
    assert server.requests == 1


def test_no_keys_is_503_and_never_a_way_in(server: JwksServer, authority: Authority) -> None:
    server.status = 500
    outcome = send(remote(server, authority), f"Bearer {token()}")
    assert (outcome.status, outcome.reached_upstream) == (503, False)
    assert outcome.response.headers["retry-after"] == "5"


def test_a_slow_identity_provider_is_503_for_now_and_mended_later(server: JwksServer, authority: Authority) -> None:
    server.delay = 0.5
    subject = remote(server, authority, request_wait="50ms", timeout="20s")
    assert send(subject, f"Bearer {token()}").status == 503
    while send(subject, f"Bearer {token()}").status != 200:
        pass
    assert server.requests == 1


def test_an_outage_does_not_touch_requests_with_keys_at_hand(server: JwksServer, authority: Authority) -> None:
    subject = remote(server, authority, min_refresh_interval="0s")
    assert send(subject, f"Bearer {token()}").status == 200
    server.status = 500
    assert send(subject, f"Bearer {token('two')}").status == 401
    assert send(subject, f"Bearer {token()}").status == 200


def test_remembered_tokens_are_checked_once_and_forgotten_with_their_key(
    server: JwksServer, authority: Authority
) -> None:
    subject = policy(
        jwks={
            "url": server.url,
            "ca_file": authority.ca_file,
            "request_wait": "20s",
            "min_refresh_interval": "0s",
        },
        cache_verified_tokens=10,
    )
    good = token()
    assert [send(subject, f"Bearer {good}").status for _ in range(3)] == [200] * 3
    server.keys = [jwk("two")]
    assert send(subject, f"Bearer {token('two')}").status == 200
    assert send(subject, f"Bearer {good}").status == 401


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"jwks": {"url": "http://issuer.example.test/k"}}, "/jwks/url"),
        ({"jwks": {"url": "https://user:hunter2@issuer.example.test/k"}}, "/jwks/url"),
        ({"jwks": {"url": "https://"}}, "/jwks/url"),
        ({"jwks": {"url": "https://[::1/"}}, "/jwks/url"),
        ({"jwks": {"url": "https://a/b c"}}, "/jwks/url"),
        ({"jwks": {"url": "https://a/", "ca_file": "/nowhere/ca.pem"}}, "/jwks/ca_file"),
        ({"jwks": {"url": "https://a/", "ca_file": __file__}}, "/jwks/ca_file"),
        ({"jwks": {"url": "https://a/", "timeout": "soon"}}, "/jwks/timeout"),
        ({"jwks": {"url": "https://a/"}, "algorithms": ["HS256"]}, "/algorithms"),
        ({"jwks": {"url": "https://a/"}, "jwk_set": {"keys": [jwk("one")]}}, ""),
        ({"jwk_set": {"keys": [{"kty": "RSA"}]}}, "/jwk_set/keys/0"),
        ({"pem_keys": [{"pem": pem("one")}, {"pem": "x"}]}, "/pem_keys/1/pem"),
        ({"algorithms": ["ES256"]}, "/algorithms"),
        ({"leeway": "1 hour"}, "/leeway"),
        ({"subject_header": "host"}, "/subject_header"),
        ({"payload_header": "a b"}, "/payload_header"),
        ({"subject_header": "authorization"}, "/subject_header"),
        ({"token": {"header": ":path"}}, "/token/header"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(**parameters)
    assert caught.value.path == path
    assert "hunter2" not in caught.value.message


def test_no_key_material_in_errors() -> None:
    secret = segment(b"short-secret")
    with pytest.raises(ParameterError) as caught:
        policy(jwk_set={"keys": [{"kty": "oct", "k": secret}]}, algorithms=["HS256"])
    assert secret not in str(caught.value)
