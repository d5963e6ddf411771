"""Mints JSON Web Tokens, good ones and each kind of bad one a validator must refuse (R-34)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

_LIFETIME_S = 300
_RSA_BITS = 2048


class SigningKey:
    """An RSA key with its `kid`."""

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)

    def jwk(self) -> dict[str, Any]:
        """Return the public half as a JWK (RFC 7517)."""
        public: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {**public, "kid": self.kid, "alg": "RS256", "use": "sig"}

    def public_pem(self) -> bytes:
        """Return the public half as PEM, the HMAC secret of the confusion attack."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


class Issuer:
    """An issuer with a current signing key; `keys` is what its JWKS publishes."""

    def __init__(self, issuer: str = "https://issuer.test", audience: str = "orders") -> None:
        self.issuer = issuer
        self.audience = audience
        self.keys = [SigningKey("key-1")]
        self._stranger = SigningKey("key-1")

    def jwks(self) -> dict[str, Any]:
        """Return the public keys as a JWK set."""
        return {"keys": [key.jwk() for key in self.keys]}

    def rotate(self) -> None:
        """Replace the signing key by a new one with a new `kid`; the old one is no longer published."""
        self.keys = [SigningKey(f"key-{int(self.keys[0].kid.removeprefix('key-')) + 1}")]

    def claims(self, **claims: Any) -> dict[str, Any]:
        """Return the claims of a good token with `claims` on top; None removes a claim."""
        now = int(time.time())
        whole = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": "alice",
            "iat": now,
            "exp": now + _LIFETIME_S,
            **claims,
        }
        return {name: value for name, value in whole.items() if value is not None}

    def token(self, **claims: Any) -> str:
        """Return a good token."""
        return self._sign(self.keys[0], self.claims(**claims))

    def expired(self) -> str:
        """Return a token, well signed, that expired an hour ago."""
        now = int(time.time())
        return self.token(iat=now - 7200, exp=now - 3600)

    def wrong_key(self) -> str:
        """Return a token with the right `kid`, signed by a key that the issuer does not have."""
        return self._sign(self._stranger, self.claims())

    def unsigned(self) -> str:
        """Return a token with `alg: none` (RFC 7519, 6.1)."""
        return f"{self._signing_input('none')}."

    def hmac_confusion(self) -> str:
        """Return a token with `alg: HS256`, keyed by the text of the public RSA key (RFC 8725, 2.1)."""
        signing_input = self._signing_input("HS256")
        mac = hmac.new(self.keys[0].public_pem(), signing_input.encode(), hashlib.sha256).digest()
        return f"{signing_input}.{_base64url(mac)}"

    def tampered(self) -> str:
        """Return a good token whose subject was changed after signing."""
        header, _, signature = self.token().split(".")
        payload = _base64url(json.dumps(self.claims(sub="mallory")).encode())
        return f"{header}.{payload}.{signature}"

    def _sign(self, key: SigningKey, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, key.private, algorithm="RS256", headers={"kid": key.kid})

    def _signing_input(self, algorithm: str) -> str:
        header = {"alg": algorithm, "typ": "JWT", "kid": self.keys[0].kid}
        return ".".join(_base64url(json.dumps(part).encode()) for part in (header, self.claims()))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
