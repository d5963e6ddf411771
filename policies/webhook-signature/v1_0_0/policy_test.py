"""webhook-signature through the test kit: the senders' own vectors, rotation, time, and whatever else is sent in their place."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.testing import Outcome, load_policy, request, run

NOW = 1_700_000_000
OLD, NEW = "an-old-secret-0", "a-new-secret-00"
STANDARD = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: float(NOW))


def policy(form: str = "github", *secrets: str, **parameters: Any) -> Policy:
    return load_policy(__file__, {"format": form, "secrets": list(secrets or (OLD, NEW)), **parameters})


def digest(secret: str | bytes, signed: bytes, algorithm: str = "sha256") -> bytes:
    return hmac.new(secret.encode() if isinstance(secret, str) else secret, signed, algorithm).digest()


def sent(subject: Policy, headers: dict[str, Any], body: bytes = b"{}", **given: Any) -> Outcome:
    return run(subject, request("POST", "/hook", headers=headers, body=body), **given)


def why(outcome: Outcome) -> str:
    assert (outcome.status, outcome.reached_upstream) == (403, False)
    assert outcome.immediate is not None
    assert b"signature" not in (outcome.body or b"")
    return outcome.immediate.details


# -- the senders' own examples ---------------------------------------------------------------------------------------

SLACK = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar"
    b"&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com"
    b"%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121"
    b".803a0bc887a14d10d2c447fce8b6703c"
)
VECTORS: dict[str, tuple[str, int, dict[str, str], bytes]] = {
    "github": (
        "It's a Secret to Everybody",
        NOW,
        {"x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
        b"Hello, World!",
    ),
    "slack": (
        "8f742231b10e8888abcd99yyyzzz85a5",
        1531420618,
        {
            "x-slack-request-timestamp": "1531420618",
            "x-slack-signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        },
        SLACK,
    ),
    "standard-webhooks": (
        STANDARD,
        1614265330,
        {
            "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "webhook-timestamp": "1614265330",
            "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        },
        b'{"test": 2432232314}',
    ),
}


@pytest.mark.parametrize("form", VECTORS)
def test_what_the_senders_publish(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, when, headers, body = VECTORS[form]
    monkeypatch.setattr(time, "time", lambda: float(when))
    outcome = sent(policy(form, secret), headers, body)
    assert (outcome.reached_upstream, outcome.request.body) == (True, body)
    assert outcome.metadata["webhook_signature"] == {"secret": 0}
    assert why(sent(policy(form, secret), headers, body + b" ")) == "webhook_signature_wrong"
    assert why(sent(policy(form, secret), headers, body[:-1])) == "webhook_signature_wrong"
    assert why(sent(policy(form, secret[:-4] + "0000"), headers, body)) == "webhook_signature_wrong"


# -- made here -------------------------------------------------------------------------------------------------------


def stripe(secret: str, body: bytes = b"{}", at: int = NOW) -> str:
    return f"t={at},v1={digest(secret, f'{at}.'.encode() + body).hex()},v0=00"


def standard(secret: str, body: bytes = b"{}", at: int = NOW, name: str = "msg_1") -> dict[str, str]:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    made = base64.b64encode(digest(key, f"{name}.{at}.".encode() + body)).decode()
    return {"webhook-id": name, "webhook-timestamp": str(at), "webhook-signature": f"v1,{made}"}


def github(secret: str, body: bytes = b"{}") -> dict[str, str]:
    return {"x-hub-signature-256": f"sha256={digest(secret, body).hex()}"}


@pytest.mark.parametrize(("secret", "place"), [(OLD, 0), (NEW, 1)])
def test_each_of_several_secrets_is_accepted_and_named(secret: str, place: int) -> None:
    assert sent(policy(), github(secret)).metadata["webhook_signature"] == {"secret": place}
    assert sent(policy("stripe"), {"stripe-signature": stripe(secret)}).metadata["webhook_signature"]["secret"] == place
    assert why(sent(policy(), github("another-secret"))) == "webhook_signature_wrong"


def test_one_of_several_signatures_is_enough() -> None:
    both = f"t={NOW},v1={'0' * 64},{stripe(NEW).partition(',')[2]}"
    assert sent(policy("stripe", NEW), {"stripe-signature": both}).reached_upstream
    headers = standard(STANDARD)
    headers["webhook-signature"] = f"v1,AAAA v1a,AAAA {headers['webhook-signature']}"
    assert sent(policy("standard-webhooks", STANDARD), headers).reached_upstream
    headers["webhook-signature"] = " ".join(["v1,AAAA"] * 17)
    assert why(sent(policy("standard-webhooks", STANDARD), headers)) == "webhook_signature_malformed"


def test_secrets_of_standard_webhooks_are_taken_without_their_prefix_too() -> None:
    bare = STANDARD.removeprefix("whsec_")
    assert sent(policy("standard-webhooks", bare), standard(STANDARD)).reached_upstream


@pytest.mark.parametrize(("seconds", "passes"), [(0, True), (300, True), (301, False), (-300, True), (-301, False)])
def test_the_time_of_the_signature_is_near(seconds: int, passes: bool) -> None:
    at = NOW + seconds
    outcome = sent(policy("stripe"), {"stripe-signature": stripe(NEW, at=at)})
    assert outcome.reached_upstream is passes
    assert passes or why(outcome) == "webhook_signature_stale"
    assert sent(policy("standard-webhooks", STANDARD), standard(STANDARD, at=at)).reached_upstream is passes
    assert sent(policy("stripe", tolerance=400), {"stripe-signature": stripe(NEW, at=at)}).reached_upstream


def test_the_time_is_part_of_what_was_signed() -> None:
    headers = {"stripe-signature": stripe(NEW, at=NOW - 900).replace(f"t={NOW - 900}", f"t={NOW}")}
    assert why(sent(policy("stripe"), headers)) == "webhook_signature_wrong"
    headers = standard(STANDARD) | {"webhook-id": "msg_2"}
    assert why(sent(policy("standard-webhooks", STANDARD), headers)) == "webhook_signature_wrong"


def test_the_parts_of_what_was_signed_cannot_be_moved() -> None:
    """Of the message msg, 1700000000, `1700000000.{}` one could make msg.1700000000, 1700000000, `{}`."""
    headers = standard(STANDARD, f"{NOW}.{{}}".encode()) | {"webhook-id": f"msg_1.{NOW}"}
    assert why(sent(policy("standard-webhooks", STANDARD), headers)) == "webhook_signature_malformed"


def test_a_sender_of_one_s_own() -> None:
    described = {
        "header": "X-Signature",
        "prefix": "v=",
        "encoding": "base64",
        "algorithm": "sha512",
        "timestamp_header": "X-Sent-At",
        "signed": "<{timestamp}|{body}>",
    }
    made = base64.b64encode(digest(NEW, f"<{NOW}|{{}}>".encode(), "sha512")).decode()
    headers = {"x-signature": f"v={made}", "x-sent-at": str(NOW)}
    assert sent(policy("hmac", hmac=described), headers).reached_upstream
    assert why(sent(policy("hmac", hmac=described), headers | {"x-sent-at": str(NOW + 1)})) == "webhook_signature_wrong"
    assert why(sent(policy("hmac", hmac=described), {"x-signature": f"v={made}"})) == "webhook_signature_missing"
    plain = policy("hmac", hmac={"header": "x-signature", "algorithm": "sha1"})
    assert sent(plain, {"x-signature": digest(OLD, b"{}", "sha1").hex().upper()}).reached_upstream


@pytest.mark.parametrize(
    ("form", "headers", "reason"),
    [
        ("github", {}, "missing"),
        ("github", {"x-hub-signature-256": ""}, "missing"),
        ("github", {"x-hub-signature-256": "sha256="}, "wrong"),
        ("github", {"x-hub-signature-256": "sha256=00"}, "wrong"),
        ("github", {"x-hub-signature-256": "sha1=00"}, "malformed"),
        ("github", {"x-hub-signature-256": "sha256=0"}, "malformed"),
        ("github", {"x-hub-signature-256": ["sha256=00", github(OLD)["x-hub-signature-256"]]}, "malformed"),
        ("github", {"x-hub-signature-256": "sha256=00," + github(OLD)["x-hub-signature-256"]}, "malformed"),
        ("github", {"x-hub-signature": "sha1=" + digest(OLD, b"{}", "sha1").hex()}, "missing"),
        ("github", {"x-hub-signature-256": b"sha256=\xff\xfe"}, "malformed"),
        ("stripe", {"stripe-signature": f"t={NOW}"}, "missing"),
        ("stripe", {"stripe-signature": stripe(OLD).replace("t=", "x=")}, "malformed"),
        ("stripe", {"stripe-signature": f"t={NOW}," + stripe(OLD)}, "malformed"),
        ("stripe", {"stripe-signature": stripe(OLD).replace("t=", "t=+")}, "malformed"),
        ("stripe", {"stripe-signature": stripe(OLD).replace("v1", "v0")}, "missing"),
        ("slack", {"x-slack-signature": "v0=00"}, "missing"),
        ("standard-webhooks", {}, "missing"),
        ("standard-webhooks", standard(STANDARD) | {"webhook-signature": "v1,?"}, "malformed"),
        ("standard-webhooks", standard(STANDARD) | {"webhook-signature": "v2,AAAA"}, "missing"),
        ("standard-webhooks", standard(STANDARD) | {"webhook-timestamp": "1e9"}, "malformed"),
    ],
)
def test_anything_else_is_refused(form: str, headers: dict[str, Any], reason: str) -> None:
    secrets = (STANDARD,) if form == "standard-webhooks" else (OLD,)
    assert why(sent(policy(form, *secrets), headers)) == f"webhook_signature_{reason}"


def test_what_the_headers_tell_is_refused_before_the_body_is_read() -> None:
    outcome = sent(policy(), {}, b"x" * 100_000)
    assert outcome.hooks == ["WebhookSignature.on_request_headers"]


@pytest.mark.parametrize("coding", ["gzip", "identity,br", "unknown"])
def test_a_compressed_body_cannot_be_held_against_its_signature(coding: str) -> None:
    headers = github(OLD) | {"content-encoding": coding}
    assert why(sent(policy(), headers)) == "webhook_body_encoded"
    assert sent(policy(), github(OLD) | {"content-encoding": "identity"}).reached_upstream


def test_an_empty_body_and_one_in_pieces_are_signed_too() -> None:
    assert sent(policy(), github(OLD, b""), b"").reached_upstream
    pieces = run(policy(), request("POST", "/", headers=github(OLD, b"abc")), request_chunks=[b"a", b"b", b"c"])
    assert pieces.reached_upstream


def test_a_large_body_is_hashed_elsewhere() -> None:
    body = b"x" * (5 << 20)
    assert sent(policy(), github(NEW, body), body).metadata["webhook_signature"] == {"secret": 1}
    assert why(sent(policy(), github(NEW, body), body + b"y")) == "webhook_signature_wrong"


@given(st.binary(max_size=40), st.text(max_size=60))
def test_no_text_in_place_of_a_signature_gets_in(body: bytes, text: str) -> None:
    value = text.encode("utf-8", "replace").replace(b"\0", b"")
    for form, header in (("github", "x-hub-signature-256"), ("stripe", "stripe-signature")):
        assert sent(policy(form), {header: value}, body).status == 403
    headers = standard(STANDARD) | {"webhook-signature": value}
    assert sent(policy("standard-webhooks", STANDARD), headers, body).status == 403


def test_secrets_are_in_no_text_of_the_policy() -> None:
    outcome = sent(policy(), github("another-secret"))
    shown = repr(policy()) + repr(outcome.immediate) + str(outcome.body)
    assert OLD not in shown
    assert hashlib.sha256(OLD.encode()).hexdigest() not in shown


OWN = {"header": "x-signature"}


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"format": "hmac"}, "/hmac"),
        ({"format": "github", "hmac": OWN}, "/hmac"),
        ({"format": "github", "tolerance": 60}, "/tolerance"),
        ({"format": "hmac", "hmac": OWN, "tolerance": 60}, "/tolerance"),
        ({"format": "hmac", "hmac": {"header": "x y"}}, "/hmac/header"),
        ({"format": "hmac", "hmac": {"header": ":path"}}, "/hmac/header"),
        ({"format": "hmac", "hmac": {**OWN, "timestamp_header": "x y"}}, "/hmac/timestamp_header"),
        ({"format": "hmac", "hmac": {**OWN, "timestamp_header": "x-t"}}, "/hmac/signed"),
        ({"format": "hmac", "hmac": {**OWN, "signed": "{timestamp}{body}"}}, "/hmac/signed"),
        ({"format": "hmac", "hmac": {**OWN, "signed": "x"}}, "/hmac/signed"),
        ({"format": "hmac", "hmac": {**OWN, "signed": "{body}{body}"}}, "/hmac/signed"),
        ({"format": "standard-webhooks", "secrets": [STANDARD, "whsec_c2hvcnQ="]}, "/secrets/1"),
        ({"format": "standard-webhooks", "secrets": ["whsec_no base 64 at all, is it?"]}, "/secrets/0"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, {"secrets": [OLD], **parameters})
    assert caught.value.path == path
    assert "c2hvcnQ" not in caught.value.message


@pytest.mark.parametrize(
    "parameters",
    [
        {"format": "gitlab"},
        {"format": "github", "secrets": []},
        {"format": "github", "secrets": ["short"]},
        {"format": "github", "tolerance": 0},
        {"format": "hmac", "hmac": {**OWN, "algorithm": "md5"}},
        {"format": "hmac", "hmac": {}},
    ],
)
def test_parameters_that_the_schema_rules_out(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="/"):
        load_policy(__file__, {"secrets": [OLD], **parameters})
