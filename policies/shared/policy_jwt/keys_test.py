"""Keys are bound to algorithms when loaded, and what is no verification key is never one."""

from __future__ import annotations

import base64
from itertools import count
from math import prod
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


def rsa(modulus: int, exponent: int = 65537) -> dict[str, Any]:
    def text(number: int) -> str:
        return segment(number.to_bytes((number.bit_length() + 7) // 8, "big"))

    return {"kty": "RSA", "kid": "odd", "n": text(modulus), "e": text(exponent)}


def okp(raw: bytes, curve: str = "Ed25519") -> dict[str, Any]:
    return {"kty": "OKP", "crv": curve, "kid": "odd", "x": segment(raw)}


GOOD = int.from_bytes(base64.urlsafe_b64decode(jwk("good")["n"] + "=="), "big")
EVEN = GOOD - 1
PRIME = 2**1279 - 1
ROCA_BASE = prod(prime for prime in range(2, 168) if all(prime % d for d in range(2, prime)))
# A modulus of the form that the faulty library makes: 65537**a + k * M, here without its factors.
ROCA = next(
    found
    for step in count()
    if all((found := pow(65537, 7, ROCA_BASE) + (2**1850 + step) * ROCA_BASE) % d for d in range(2, 752))
)
SMALL_ORDER = [
    *("00" * 32, "00" * 31 + "80", "01" + "00" * 31, "01" + "00" * 30 + "80"),
    *("ec" + "ff" * 30 + "7f", "ec" + "ff" * 31, "ed" + "ff" * 30 + "7f", "ed" + "ff" * 31, "ee" + "ff" * 30 + "7f"),
    *(f"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc{end}" for end in ("05", "85")),
    *(f"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03{end}" for end in ("7a", "fa")),
]
"""Encodings of the points of order 1, 2, 4 and 8, canonical and not."""

BAD: list[tuple[Any, str]] = [
    (jwk("one", use="enc"), "not for signatures"),
    (jwk("one", key_ops=["encrypt"]), "not for verifying"),
    (jwk("one", alg="ES256"), "does not fit"),
    (jwk("one", alg="HS256"), "does not fit"),
    (jwk("one", "P-256", crv="P-384"), "not a valid key"),
    (jwk("one", d="AQAB"), "private"),
    (jwk("one", n=None), "not a valid key"),
    (jwk("one", kid=7), "kid"),
    (jwk("one", kty=["RSA"]), "kty"),
    (jwk("one", kty={"a": 1}), "kty"),
    (jwk("one", kty=None), "kty"),
    (jwk("one", n=[1]), "not a valid key"),
    (jwk("one", n=7), "not a valid key"),
    (jwk("one", e={}), "not a valid key"),
    (jwk("one", e=""), "not a valid key"),
    (jwk("one", "P-256", x=None), "not a valid key"),
    (jwk("one", "P-256", crv=["P-256"]), "not a valid key"),
    (jwk("one", "P-256", y=segment(b"\0" * 32)), "not a valid key"),
    (jwk("one", "Ed25519", crv={}), "not a valid key"),
    (jwk("one", "Ed25519", x=segment(b"short")), "not a valid key"),
    (rsa(EVEN), "small factor|not a valid key"),
    (rsa(GOOD * 3), "small factor"),
    (rsa(2**16384 + 1), "16384 bits"),
    (rsa(2**1_000_000 + 1), "16384 bits"),
    (rsa(PRIME**2), "square"),
    (rsa(GOOD, 1), "exponent|not a valid key"),
    (rsa(GOOD, 2), "exponent|not a valid key"),
    (rsa(GOOD, 65538), "exponent|not a valid key"),
    (rsa(GOOD, 2**64 + 1), "exponent"),
    (rsa(GOOD, 2**2047 + 1), "exponent"),
    (rsa(ROCA), "ROCA"),
    *((okp(bytes.fromhex(one)), "small order|no point") for one in SMALL_ORDER),
    (okp((2**255 - 19 + 3).to_bytes(32, "little")), "no point"),
    (okp((2).to_bytes(32, "little")), "no point"),
    (okp((1).to_bytes(57, "little"), "Ed448"), "small order"),
    (okp(bytes(57), "Ed448"), "small order"),
    (okp((2**448 - 2**224 - 2).to_bytes(57, "little"), "Ed448"), "small order"),
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


def test_every_odd_entry_of_a_fetched_set_is_named_and_the_good_ones_serve() -> None:
    odd = [{"kty": ["RSA"]}, rsa(ROCA), 7, okp(b"\1" + bytes(31)), jwk("enc", use="enc"), {"kty": "AKP"}]
    keys = key_set_from_jwks({"keys": [*odd, jwk("good")]}, inline=False)
    assert [key.kid for key in keys.keys] == ["good"]
    said = "\n".join(keys.refused)
    assert len(keys.refused) == 4, "keys for other purposes are normal"
    assert "key 0: kty" in said
    assert "key 'odd': this RSA key" in said


def test_a_sound_key_of_every_kind_is_taken() -> None:
    for kind in ("RSA", "P-256", "P-384", "Ed25519"):
        assert key_set_from_jwks({"keys": [jwk("one", kind)]}, inline=False).keys
    assert key_set_from_jwks({"keys": [rsa(GOOD, 3)]}, inline=False).keys


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
