"""Tokens good and bad, held against PyJWT's own `decode`, and what happens while keys are on their way."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from base64 import urlsafe_b64decode
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_jwt.claims import Expected
from policy_jwt.compact import decode, parse_object
from policy_jwt.errors import InvalidToken, KeysUnavailable
from policy_jwt.keys import ALGORITHMS, KeySet, key_set_from_jwks
from policy_jwt.testing import AUDIENCE, ISSUER, jwk, pem, segment, signing_key, token
from policy_jwt.verifier import InlineKeys, KeySource, Verified, Verifier

ALL = frozenset(ALGORITHMS)
SECRET = b"0123456789abcdef0123456789abcdef"


def key_set(*entries: dict[str, Any]) -> KeySet:
    return key_set_from_jwks({"keys": list(entries)}, inline=True)


KEYS = key_set(jwk("one"), jwk("ec", "P-256"), jwk("ed", "Ed25519"))


def verifier(
    source: KeySource | None = None,
    *,
    audiences: frozenset[str] = frozenset({AUDIENCE}),
    leeway: float = 30,
    **more: Any,
) -> Verifier:
    return Verifier(
        source or InlineKeys(KEYS), Expected(ISSUER, audiences, leeway), more.pop("algorithms", ALL), **more
    )


def verified(subject: Verifier, text: str) -> Verified:
    found = subject.verify(text)
    assert isinstance(found, Verified), "no waiting is expected"
    return found


def reason(subject: Verifier, text: str) -> str:
    with pytest.raises(InvalidToken) as caught:
        subject.verify(text)
    return caught.value.reason


@pytest.mark.parametrize(
    ("key", "kind", "algorithm"),
    [
        *(("one", "RSA", name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        ("ec", "P-256", "ES256"),
        ("ed", "Ed25519", "EdDSA"),
    ],
)
def test_good_tokens(key: str, kind: str, algorithm: str) -> None:
    text = token(key, kind, algorithm=algorithm, scope="a b")
    found = verified(verifier(), text)
    assert (found.claims["sub"], found.claims["scope"]) == ("alice", "a b")
    assert found.payload == text.split(".")[1]


def forged(header: dict[str, Any], payload: dict[str, Any] | None = None, signature: bytes = b"") -> str:
    body = {"iss": ISSUER, "aud": AUDIENCE, "sub": "root", "exp": int(time.time()) + 300}
    return f"{segment(header)}.{segment(body if payload is None else payload)}.{segment(signature)}"


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "RS1", "HS1"])
def test_alg_none_is_refused_in_every_spelling(name: str) -> None:
    assert reason(verifier(), forged({"alg": name, "kid": "one"})) == "jwt_algorithm_not_allowed"
    assert reason(verifier(), forged({"alg": name, "kid": "one"})[:-1] + ".") in {
        "jwt_malformed",
        "jwt_algorithm_not_allowed",
    }


@pytest.mark.parametrize("depth", [70, 900, 20_000])
@pytest.mark.parametrize("pair", ["[]", '{"a":}'])
def test_claims_that_are_nested_deeply_are_malformed(depth: int, pair: str) -> None:
    opening, closing = pair[:-1], pair[-1]
    deep = opening * depth + "1" + closing * depth
    payload = f'{{"iss":"{ISSUER}","aud":"{AUDIENCE}","exp":{int(time.time()) + 300},"x":{deep}}}'.encode()
    assert reason(verifier(max_token_bytes=1_000_000), signed_raw(payload)) == "jwt_malformed"


def test_an_rsa_public_key_is_no_hmac_secret() -> None:
    header = {"alg": "HS256", "kid": "one", "typ": "JWT"}
    signed = forged(header).rpartition(".")[0]
    for secret in (pem("one").encode(), pem("one").strip().encode(), json.dumps(jwk("one")).encode()):
        text = f"{signed}.{segment(hmac.digest(secret, signed.encode(), 'sha256'))}"
        assert reason(verifier(), text) == "jwt_unknown_key"  # although HS256 is allowed here
        assert reason(verifier(algorithms=frozenset({"RS256"})), text) == "jwt_algorithm_not_allowed"


def test_hmac_only_with_a_secret_and_when_allowed() -> None:
    source = InlineKeys(key_set({"kty": "oct", "k": segment(SECRET)}))
    body = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 60}
    good = jwt.encode(body, SECRET, "HS256")
    assert verified(verifier(source), good)
    assert reason(verifier(source, algorithms=frozenset({"RS256"})), good) == "jwt_algorithm_not_allowed"
    assert reason(verifier(source), jwt.encode(body, SECRET[::-1], "HS256")) == "jwt_bad_signature"


def test_allowed_algorithms_only_and_a_key_only_for_its_own() -> None:
    assert reason(verifier(algorithms=frozenset({"ES256"})), token()) == "jwt_algorithm_not_allowed"
    bound = verifier(InlineKeys(key_set(jwk("one", alg="PS256"))))
    assert reason(bound, token(algorithm="RS256")) == "jwt_unknown_key"
    assert verified(bound, token(algorithm="PS256"))


def test_another_key_of_the_same_kind_and_a_wrong_kid() -> None:
    assert reason(verifier(), token("other", headers={"kid": "one"})) == "jwt_bad_signature"
    assert reason(verifier(), token("one", headers={"kid": "nobody"})) == "jwt_unknown_key"
    assert reason(verifier(), token("one", headers={"kid": "ec"})) == "jwt_unknown_key"
    assert verified(verifier(), token("one", headers={"kid": None}))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "RS256", "kid": "one", "crit": ["exp"]},
        {"alg": "RS256", "kid": "one", "crit": []},
        {"alg": "RS256", "kid": "one", "b64": False, "crit": ["b64"]},
        {"alg": "RS256", "kid": "one", "b64": False},
    ],
)
def test_critical_extensions_are_refused(header: dict[str, Any]) -> None:
    assert reason(verifier(), forged(header)) == "jwt_header_critical_extension"


@pytest.mark.parametrize(
    "header", [{}, {"alg": None}, {"alg": ["RS256"]}, {"alg": "RS256", "kid": 1}, {"alg": "RS256", "kid": "k" * 513}]
)
def test_malformed_headers(header: dict[str, Any]) -> None:
    assert reason(verifier(), forged(header)).startswith("jwt_header_")


NOW = 1_700_000_000


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"exp": NOW - 29}, None),
        ({"exp": NOW - 30}, "jwt_expired"),
        ({"exp": None}, "jwt_without_exp"),
        ({"exp": NOW + 60.5}, None),
        ({"exp": str(NOW + 60)}, "jwt_claim_malformed"),
        ({"exp": True}, "jwt_claim_malformed"),
        ({"exp": 10**400}, "jwt_claim_malformed"),
        ({"exp": [NOW]}, "jwt_claim_malformed"),
        ({"nbf": NOW + 30}, None),
        ({"nbf": NOW + 31}, "jwt_not_yet_valid"),
        ({"nbf": "soon"}, "jwt_claim_malformed"),
        ({"iat": NOW + 30}, None),
        ({"iat": NOW + 31}, "jwt_issued_in_the_future"),
        ({"iat": {}}, "jwt_claim_malformed"),
        ({"iss": "https://issuer.example.test/"}, "jwt_wrong_issuer"),
        ({"iss": None}, "jwt_wrong_issuer"),
        ({"aud": "payments"}, "jwt_wrong_audience"),
        ({"aud": None}, "jwt_wrong_audience"),
        ({"aud": []}, "jwt_wrong_audience"),
        ({"aud": {"orders": 1}}, "jwt_wrong_audience"),
        ({"aud": [1, ["orders"], "payments"]}, "jwt_wrong_audience"),
        ({"aud": ["payments", AUDIENCE]}, None),
        ({"sub": 7}, "jwt_claim_malformed"),
    ],
)
def test_claims(claims: dict[str, Any], expected: str | None) -> None:
    text = token(**{"iat": NOW, "exp": NOW + 300, **claims})
    subject = verifier(clock=lambda: NOW)
    if expected is None:
        assert verified(subject, text)
    else:
        assert reason(subject, text) == expected


def test_no_audience_is_checked_when_none_is_configured() -> None:
    assert verified(verifier(audiences=frozenset()), token(aud=None))


def test_token_types() -> None:
    subject = verifier(types=frozenset({"at+jwt"}))
    assert verified(subject, token(headers={"typ": "application/at+JWT"}))
    assert reason(subject, token()) == "jwt_wrong_type"


def signed_raw(payload: bytes, header: bytes = b'{"alg":"RS256","kid":"one"}') -> str:
    signed = f"{segment(header)}.{segment(payload)}"
    signature = ALGORITHMS["RS256"].sign(signed.encode(), signing_key("one"))
    return f"{signed}.{segment(signature)}"


@pytest.mark.parametrize(
    "payload",
    [
        b"[]",
        b"",
        b"{",
        b"\xff",
        b'{"exp": NaN}',
        b'{"exp": Infinity}',
        b'{"iss":"x","iss":"%s"}' % ISSUER.encode(),
        b'{"a":' * 5000,
        b"1" * 5000,
    ],
)
def test_signed_rubbish_is_malformed(payload: bytes) -> None:
    assert reason(verifier(max_token_bytes=100_000), signed_raw(payload)) == "jwt_malformed"


def test_names_that_occur_twice_in_the_header_are_refused() -> None:
    assert reason(verifier(), signed_raw(b"{}", b'{"alg":"none","alg":"RS256","kid":"one"}')) == "jwt_malformed"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "=",
        lambda text: text + ".",
        lambda text: text.replace(".", ".."),
        lambda text: text.rpartition(".")[0],
        lambda text: text[:-1],
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text.replace(".", "\udcff.", 1),
        lambda text: text[:200] + "é" + text[201:],
        lambda text: text + "A" * 9000,
        lambda text: "..",
        lambda text: "",
    ],
)
def test_anything_but_the_exact_text_is_refused(change: Any) -> None:
    assert reason(verifier(), change(token())).startswith("jwt_")


def test_a_signature_has_one_spelling() -> None:
    text = token()
    last = text[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = text[:-1] + alphabet[alphabet.index(last) ^ 1]
    assert urlsafe_b64decode(twin.split(".")[2] + "==") == urlsafe_b64decode(text.split(".")[2] + "==")
    assert reason(verifier(), twin) == "jwt_malformed"


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_base64url_round_trip(raw: bytes) -> None:
    assert decode(segment(raw)) == raw


@settings(deadline=None)
@given(st.text(max_size=200))
def test_no_text_makes_it_fail_otherwise(text: str) -> None:
    for candidate in (text, f"{text}.{text}.{text}", token().rpartition(".")[0] + "." + text):
        assert reason(verifier(), candidate).startswith("jwt_")
    with pytest.raises(InvalidToken):
        parse_object(text)


TIMES = {"exp", "nbf", "iat"}
OFFSETS = st.integers(-40, 40)
ODD: st.SearchStrategy[Any] = st.sampled_from(["1", None, [], {}, 1.5])


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries(
        {"iss": st.sampled_from([ISSUER, ISSUER, "other", 1, None]), "exp": st.one_of(OFFSETS, OFFSETS, ODD)},
        optional={
            "aud": st.sampled_from([AUDIENCE, AUDIENCE, [AUDIENCE, "x"], "x", [], 3, None]),
            "nbf": st.one_of(OFFSETS, ODD),
            "iat": st.one_of(OFFSETS, ODD),
            "sub": st.sampled_from(["alice", 3, None]),
        },
    ),
    st.sampled_from(["one", "one", "other"]),
)
def test_never_more_lenient_than_pyjwt(claims: dict[str, Any], key: str) -> None:
    now = int(time.time())
    moved = {name: now + value if isinstance(value, int) and name in TIMES else value for name, value in claims.items()}
    signed = f"{segment({'alg': 'RS256', 'kid': 'one'})}.{segment(moved)}"
    text = f"{signed}.{segment(ALGORITHMS['RS256'].sign(signed.encode(), signing_key(key)))}"
    try:
        mine: dict[str, Any] | None = verified(verifier(clock=time.time, leeway=30), text).claims
    except InvalidToken:
        mine = None
    try:
        theirs: dict[str, Any] | None = jwt.decode(
            text,
            pem("one"),
            algorithms=["RS256"],
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway=30,
            options={"require": ["exp", "iss", "aud"]},
        )
    except jwt.InvalidTokenError:
        theirs = None
    assert mine is None or mine == theirs


class Fetching:
    """A key source whose fetch the test ends."""

    def __init__(self, before: KeySet | None = None, after: KeySet | None = None, *, allowed: bool = True) -> None:
        self.keys, self.after, self.allowed, self.asked = before, after, allowed, 0
        self.pending: Future[None] = Future()
        self.pending.set_running_or_notify_cancel()

    def ready(self) -> KeySet | None:
        return self.keys

    fallback = ready

    def refresh(self) -> Future[None] | None:
        self.asked += 1
        return self.pending if self.allowed else None

    def finish(self) -> None:
        self.keys = self.after
        self.pending.set_result(None)


async def outcome(subject: Verifier, text: str) -> str:
    try:
        found = subject.verify(text)
        if isinstance(found, Coroutine):
            found = await found
    except InvalidToken as refusal:
        return refusal.reason
    except KeysUnavailable:
        return "unavailable"
    return str(found.claims["sub"])


def test_waiters_share_one_fetch_and_one_that_gives_up_does_not_stop_the_others() -> None:
    source = Fetching(None, KEYS)
    subject = verifier(source, request_wait=30)

    async def main() -> list[str]:
        impatient = asyncio.create_task(outcome(subject, token()))
        waiting = [asyncio.create_task(outcome(subject, token())) for _ in range(20)]
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.sleep(0)
        source.finish()
        return await asyncio.gather(*waiting)

    assert asyncio.run(main()) == ["alice"] * 20


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Fetching(None, None), "unavailable"),
        (Fetching(None, KEYS, allowed=False), "unavailable"),
        (Fetching(key_set(jwk("old")), KEYS), "alice"),
        (Fetching(key_set(jwk("old")), key_set(jwk("old"))), "jwt_unknown_key"),
        (Fetching(key_set(jwk("old")), KEYS, allowed=False), "jwt_unknown_key"),
    ],
)
def test_missing_and_rotated_keys(source: Fetching, expected: str) -> None:
    async def main() -> str:
        waiting = asyncio.create_task(outcome(verifier(source, request_wait=30), token()))
        await asyncio.sleep(0)
        if source.allowed:
            source.finish()
        return await waiting

    assert asyncio.run(main()) == expected


@pytest.mark.parametrize(("before", "expected"), [(None, "unavailable"), (key_set(jwk("old")), "jwt_unknown_key")])
def test_a_fetch_that_takes_too_long(before: KeySet | None, expected: str) -> None:
    assert asyncio.run(outcome(verifier(Fetching(before, KEYS), request_wait=0.01), token())) == expected


@pytest.mark.parametrize("text", ["rubbish", "a.b.c", forged({"alg": "none"}), forged({"alg": "RS256", "crit": []})])
def test_a_token_that_could_not_be_accepted_anyway_starts_no_fetch(text: str) -> None:
    source = Fetching(None, KEYS)
    assert reason(verifier(source), text).startswith("jwt_")
    assert source.asked == 0


def test_verified_tokens_are_remembered_until_they_expire_or_the_keys_change(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[str] = []
    algorithm = ALGORITHMS["RS256"]
    real = algorithm.verify

    def counted(signed: bytes, key: Any, signature: bytes) -> bool:
        checks.append("")
        return real(signed, key, signature)

    monkeypatch.setattr(algorithm, "verify", counted)
    source = Fetching(KEYS, key_set(jwk("two")))
    now = [float(NOW)]
    subject = verifier(source, cache_size=2, clock=lambda: now[0], leeway=0)
    text = token(iat=NOW, exp=NOW + 60, roles=["a"])

    first, second = verified(subject, text), verified(subject, text)
    assert (first, len(checks)) == (second, 1)
    first.claims["roles"].append("admin")
    assert verified(subject, text).claims["roles"] == ["a"], "policies must not see each other's changes"

    assert reason(subject, text[:-3] + ("AAA" if text[-3:] != "AAA" else "BBB")) in {
        "jwt_bad_signature",
        "jwt_malformed",
    }
    for number in range(3):
        verified(subject, token(iat=NOW, exp=NOW + 60, jti=str(number)))
    assert len(subject._cache) == 2

    verified(subject, text)
    now[0] += 60
    assert reason(subject, text) == "jwt_expired"
    now[0] -= 60
    verified(subject, text)
    source.finish()
    source.allowed = False
    assert reason(subject, text) == "jwt_unknown_key", "a key that was withdrawn takes its tokens along"


def test_nothing_is_remembered_by_default_nor_of_refused_tokens() -> None:
    plain, remembering = verifier(), verifier(cache_size=10)
    verified(plain, token())
    assert reason(remembering, token(exp=1)) == "jwt_expired"
    assert not plain._cache
    assert not remembering._cache
