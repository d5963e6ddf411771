"""JSON Web Tokens that are signed here (RFC 7519); apart from the policy because keys are checked with care."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from policy_engine.sdk import ParameterError

_KEPT = 1024
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
_LEAST_RSA_BITS = 2048


class Signer:
    """Signs claims; a token is used for half of its `ttl` (seconds), so that it is good when it arrives."""

    def __init__(
        self, key: Any, algorithm: str, kid: str | None, ttl: float, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._key = key
        self._algorithm = algorithm
        self._headers = None if kid is None else {"kid": kid}
        self._ttl = ttl
        self._clock = clock
        self._kept: dict[str, tuple[float, str]] = {}

    def token(self, claims: Mapping[str, Any]) -> str:
        """Return a token with these claims, `iat`, `exp` and `jti`; raises ValueError for what JSON cannot hold."""
        now = self._clock()
        name = json.dumps(claims, sort_keys=True, allow_nan=False)
        found = self._kept.get(name)
        if found is not None and now < found[0]:
            return found[1]
        times = {"iat": int(now), "exp": int(now + self._ttl), "jti": str(uuid.uuid4())}
        made = jwt.encode({**claims, **times}, self._key, self._algorithm, self._headers)
        self._kept.pop(name, None)
        while len(self._kept) >= _KEPT:
            del self._kept[next(iter(self._kept))]  # the oldest
        self._kept[name] = (now + self._ttl / 2, made)
        return made


def signing_key(text: str, algorithm: str, path: str) -> Any:
    """Return the key for this algorithm; raises ParameterError, never with anything of the key."""
    if algorithm in _SECRET_BYTES:
        if len(text.encode()) < _SECRET_BYTES[algorithm]:
            raise ParameterError(
                f"a secret for {algorithm} must have {_SECRET_BYTES[algorithm]} bytes or more (RFC 7518, 3.2)", path
            )
        return text.encode()
    try:
        key = load_pem_private_key(text.encode(), None)
    except Exception:  # whatever the library makes of it, its text may hold some of the key
        raise ParameterError("not a PEM block of a private key without a password", path) from None
    match key:
        case RSAPrivateKey() if algorithm[:2] in ("RS", "PS"):
            if key.key_size < _LEAST_RSA_BITS:
                raise ParameterError(f"an RSA key must have {_LEAST_RSA_BITS} bits or more (RFC 7518, 3.3)", path)
            return key
        case EllipticCurvePrivateKey() if _CURVES.get(algorithm) == key.curve.name:
            return key
        case Ed25519PrivateKey() if algorithm == "EdDSA":
            return key
    raise ParameterError(f"this key is not for {algorithm}", path)
