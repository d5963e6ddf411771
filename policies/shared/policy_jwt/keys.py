"""Keys and what each may verify (RFC 7517, RFC 7518); apart from fetching because inline keys need no network.

A key is bound to its algorithms when it is loaded: a key of one kind can never be used by an algorithm of another,
so an RSA public key is no HMAC secret (RFC 8725, 2.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jwt.algorithms import Algorithm, get_default_algorithms

from policy_jwt.weakness import LONGEST_RSA, ed448_weakness, ed25519_weakness, rsa_weakness

ASYMMETRIC = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
SYMMETRIC = ("HS256", "HS384", "HS512")

ALGORITHMS: Mapping[str, Algorithm] = {
    name: algorithm for name, algorithm in get_default_algorithms().items() if name in {*ASYMMETRIC, *SYMMETRIC}
}
"""The signature algorithms of PyJWT that may be allowed; `none` is not among them."""

_RSA = frozenset(name for name in ASYMMETRIC if name[:2] in {"RS", "PS"})
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518, 3.2: at least as long as the hash
_MOST_KEYS = 256
_MOST_TRIES = 16  # signatures checked for one token without a key id
_BY_TYPE = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA", "oct": "HS256"}
_LONGEST_RSA_TEXT = LONGEST_RSA // 6 + 8  # characters of base64url
_SHOWN = 64  # characters of what a set holds in a message
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth")


class KeyProblem(ValueError):
    """A key cannot be used. `path` is a JSON Pointer within the document; the text holds no key material."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.path = path


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """Key material with the algorithms that it may verify; `kid` is None when the key has no id."""

    kid: str | None
    algorithms: frozenset[str]
    material: Any


class ForeignKey(KeyProblem):
    """A key for another purpose or of a kind that this library does not know: in a set it is normal."""


class KeySet:
    """An immutable set of keys, found by key id and algorithm.

    `refused` says of each entry that was left out because something is wrong with it what that is.
    """

    __slots__ = ("_by_kid", "_nameless", "keys", "refused")

    def __init__(self, keys: Iterable[Key], refused: Iterable[str] = ()) -> None:
        self.keys = tuple(keys)
        self.refused = tuple(refused)
        self._by_kid: dict[str, list[Key]] = {}
        self._nameless = [key for key in self.keys if key.kid is None]
        for key in self.keys:
            if key.kid is not None:
                self._by_kid.setdefault(key.kid, []).append(key)

    def candidates(self, kid: str | None, algorithm: str) -> list[Key]:
        """Return the keys that may have signed a token with this header.

        With a key id those of that id, or else the keys that have none; without one all that fit the algorithm.
        """
        named = self.keys if kid is None else self._by_kid.get(kid) or self._nameless
        return [key for key in named if algorithm in key.algorithms][:_MOST_TRIES]


def key_from_pem(pem: str, kid: str | None = None) -> Key:
    """Return the public key of a PEM block (`PUBLIC KEY` or `CERTIFICATE`); raises KeyProblem."""
    if "PRIVATE KEY" in pem:
        raise KeyProblem("this is a private key; give the public key only")
    try:
        data = pem.encode()
        material = load_pem_x509_certificate(data).public_key() if "CERTIFICATE" in pem else load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyProblem("not a PEM block of a public key or certificate") from error
    return Key(kid, _algorithms_of(material), material)


def key_set_from_jwks(document: object, *, inline: bool) -> KeySet:
    """Return the keys of a JWK set (RFC 7517, 5); raises KeyProblem when there is none to be used.

    Of a fetched set, keys for other purposes, of kinds that this library does not know, and entries that are no keys
    are left out, as the RFC asks, and symmetric keys too: a published secret is none. Whatever one entry is, the others
    serve. An inline set may hold symmetric keys, and every key must do.
    """
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise KeyProblem("not a JWK set: an object with a list of keys is expected")
    if len(entries) > _MOST_KEYS:
        raise KeyProblem(f"a JWK set may hold {_MOST_KEYS} keys, not {len(entries)}", "/keys")
    keys, refused = [], []
    for index, entry in enumerate(entries):
        try:
            keys.append(_key_from_jwk(entry, symmetric=inline))
        except KeyProblem as problem:
            if inline:
                raise KeyProblem(problem.message, f"/keys/{index}") from None
            if not isinstance(problem, ForeignKey):
                refused.append(f"{_name(entry, index)}: {problem.message}")
    if not keys:
        raise KeyProblem("; ".join(["the JWK set holds no key that can verify a signature", *refused[:3]]), "/keys")
    return KeySet(keys, refused)


def _name(entry: object, index: int) -> str:
    kid = entry.get("kid") if isinstance(entry, dict) else None
    return f"key {kid[:_SHOWN]!a}" if isinstance(kid, str) else f"key {index}"


def _key_from_jwk(entry: object, *, symmetric: bool) -> Key:
    if not isinstance(entry, dict):
        raise KeyProblem("a JWK is an object")
    kind, kid, use, operations, bound = (entry.get(name) for name in ("kty", "kid", "use", "key_ops", "alg"))
    if kid is not None and not isinstance(kid, str):
        raise KeyProblem("kid must be text")
    if use not in (None, "sig"):
        raise ForeignKey("the key is not for signatures (use)")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        raise ForeignKey("the key is not for verifying (key_ops)")
    if not isinstance(kind, str):
        raise KeyProblem("kty must be text")
    if kind not in _BY_TYPE or (kind == "oct" and not symmetric):
        raise ForeignKey(f"keys of type {kind[:_SHOWN]!a} cannot be used here")
    if any(name in entry for name in _PRIVATE):
        raise KeyProblem("this is a private key; give the public key only")
    try:
        if kind == "RSA" and len(entry["n"]) > _LONGEST_RSA_TEXT:  # before anything is worked out from it
            raise KeyProblem(f"an RSA key may have {LONGEST_RSA} bits, this one has more")
        material = ALGORITHMS[_BY_TYPE[kind]].from_jwk(entry)
    except KeyProblem:
        raise
    except Exception as error:  # whatever a library makes of an odd entry: it is one entry of a set
        raise KeyProblem(f"not a valid key of type {kind}") from error
    algorithms = _algorithms_of(material)
    if bound is not None:
        algorithms = frozenset(name for name in algorithms if name == bound)
        if not algorithms:
            raise KeyProblem("the alg of the key does not fit its type")
    return Key(kid, algorithms, material)


def _algorithms_of(material: object) -> frozenset[str]:
    match material:
        case RSAPublicKey():
            numbers = material.public_numbers()
            _refuse(rsa_weakness(numbers.n, numbers.e))
            return _RSA
        case EllipticCurvePublicKey() if material.curve.name in _CURVES:
            return frozenset({_CURVES[material.curve.name]})
        case Ed25519PublicKey():
            _refuse(ed25519_weakness(material.public_bytes_raw()))
            return frozenset({"EdDSA"})
        case Ed448PublicKey():
            _refuse(ed448_weakness(material.public_bytes_raw()))
            return frozenset({"EdDSA"})
        case bytes():
            fitting = frozenset(name for name, size in _SECRET_BYTES.items() if len(material) >= size)
            if not fitting:
                raise KeyProblem("a secret for HS256 must have 32 bytes or more (RFC 7518, 3.2)")
            return fitting
    raise KeyProblem("this kind of key is for none of the supported algorithms")


def _refuse(weakness: str | None) -> None:
    if weakness is not None:
        raise KeyProblem(weakness)
