"""Keys are bound to algorithms when loaded, and what is no verification key is never one."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from policy_jwt.keys import ALGORITHMS, KeyProblem, key_from_pem, key_set_from_jwks
from policy_jwt.testing import jwk, pem, segment, signing_key

RSA = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
SECRET = {"kty": "oct", "kid": "s", "k": segment(b"x" * 48)}


@pytest.mark.parametrize(
    ("kind", "algorithms"), [("RSA", RSA), ("P-256", {"ES256"}), ("P-384", {"ES384"}), ("Ed25519", {"EdDSA"})]
)
def test_a_key_is_for_the_algorithms_of_its_kind(kind: str, algorithms: set[str]) -> None:
    keys = key_set_from_jwks({"keys": [jwk("one", kind)]}, inline=True)
    assert keys.keys[0].algorithms == algorithms
    assert key_from_pem(pem("one", kind)).algorithms == algorithms


def test_none_is_no_algorithm() -> None:
    assert "none" not in ALGORITHMS


def test_alg_use_and_key_ops_narrow() -> None:
    assert key_set_from_jwks({"keys": [jwk("one", alg="PS256")]}, inline=True).keys[0].algorithms == {"PS256"}
    good = [jwk("one", use="sig"), jwk("one", key_ops=["verify"])]
    assert len(key_set_from_jwks({"keys": good}, inline=True).keys) == 2


BAD: list[tuple[Any, str]] = [
    (jwk("one", use="enc"), "not for signatures"),
    (jwk("one", key_ops=["encrypt"]), "not for verifying"),
    (jwk("one", alg="ES256"), "does not fit"),
    (jwk("one", alg="HS256"), "does not fit"),
    (jwk("one", "P-256", crv="P-384"), "not a valid key"),
    (jwk("one", d="AQAB"), "private"),
    (jwk("one", n=None), "not a valid key"),
    (jwk("one", kid=7), "kid"),
    (jwk("weak", "RSA-1024"), "2048"),
    ({"kty": "AKP"}, "AKP"),
    ("text", "object"),
    ({**SECRET, "k": segment(b"short")}, "32 bytes"),
]


@pytest.mark.parametrize(("entry", "message"), BAD)
def test_an_inline_set_names_the_key_that_will_not_do(entry: object, message: str) -> None:
    with pytest.raises(KeyProblem, match=message) as caught:
        key_set_from_jwks({"keys": [jwk("good"), entry]}, inline=True)
    assert caught.value.path == "/keys/1"


@pytest.mark.parametrize("entry", [*(entry for entry, _ in BAD), SECRET])
def test_a_fetched_set_leaves_it_out_and_needs_one_that_does(entry: object) -> None:
    keys = key_set_from_jwks({"keys": [entry, jwk("good")]}, inline=False)
    assert [key.kid for key in keys.keys] == ["good"]
    with pytest.raises(KeyProblem, match="no key"):
        key_set_from_jwks({"keys": [entry]}, inline=False)


@pytest.mark.parametrize("document", [None, [], {}, {"keys": {}}, {"keys": []}, {"keys": [jwk("one")] * 257}])
def test_what_is_no_key_set(document: object) -> None:
    with pytest.raises(KeyProblem):
        key_set_from_jwks(document, inline=False)


def test_secrets_are_for_the_lengths_they_have_and_only_inline() -> None:
    assert key_set_from_jwks({"keys": [SECRET]}, inline=True).keys[0].algorithms == {"HS256", "HS384"}


def test_candidates() -> None:
    keys = key_set_from_jwks({"keys": [jwk("a"), jwk("b"), jwk("c", "P-256"), jwk("d", kid=None)]}, inline=True)
    assert [key.kid for key in keys.candidates("a", "RS256")] == ["a"]
    assert keys.candidates("a", "ES256") == []
    assert keys.candidates("c", "RS256") == []
    assert [key.kid for key in keys.candidates("unknown", "RS256")] == [None]
    assert [key.kid for key in keys.candidates(None, "RS256")] == ["a", "b", None]


def test_signatures_tried_for_a_token_without_key_id_are_bounded() -> None:
    keys = key_set_from_jwks({"keys": [jwk("a", kid=str(number)) for number in range(100)]}, inline=True)
    assert len(keys.candidates(None, "RS256")) == 16


def test_private_pem_and_rubbish_are_refused() -> None:
    private = signing_key("one").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for text, message in ((private, "private"), ("-----BEGIN PUBLIC KEY-----\nx\n", "not a PEM"), ("", "not a PEM")):
        with pytest.raises(KeyProblem, match=message):
            key_from_pem(text)
