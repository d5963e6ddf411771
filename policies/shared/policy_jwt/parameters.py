"""From the parameters that the versions of `jwt-validation` share to the objects that do the work."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from policy_engine.sdk import ParameterError, Parameters, header_name
from policy_jwt.bearer import Bearer
from policy_jwt.claims import Expected
from policy_jwt.fetch import tls_context
from policy_jwt.keys import SYMMETRIC, KeyProblem, KeySet, key_from_pem, key_set_from_jwks
from policy_jwt.remote import RemoteSettings, shared_key_set
from policy_jwt.verifier import InlineKeys, KeySource, Verifier

DEFAULT_ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def verifier_from(parameters: Parameters) -> Verifier:
    """Build the verifier; raises ParameterError."""
    algorithms = frozenset(parameters.get("algorithms", DEFAULT_ALGORITHMS))
    jwks = parameters.get("jwks", {})
    return Verifier(
        _source(parameters, algorithms),
        Expected(
            parameters["issuer"],
            frozenset(parameters["audiences"]),
            seconds(parameters.get("leeway", "30s"), "/leeway"),
        ),
        algorithms,
        types=frozenset(name.lower().removeprefix("application/") for name in parameters.get("token_types", ())),
        max_token_bytes=parameters.get("max_token_bytes", 8192),
        request_wait=seconds(jwks.get("request_wait", "800ms"), "/jwks/request_wait"),
        cache_size=parameters.get("cache_verified_tokens", 0),
    )


def bearer_from(parameters: Parameters) -> Bearer:
    """Build what finds the token; raises ParameterError."""
    token = parameters.get("token", {})
    try:
        name = header_name(token.get("header", "authorization"))
    except ValueError as error:
        raise ParameterError(str(error), "/token/header") from None
    return Bearer(name, token.get("prefix", "Bearer"), parameters.get("realm", "api"))


def seconds(text: str, path: str) -> float:
    """Return the seconds of a duration such as `500ms`, `30s`, `5m` or `1h`; raises ParameterError."""
    found = re.fullmatch(r"(\d{1,9})(ms|s|m|h)", text, re.ASCII)
    if found is None:
        raise ParameterError(f"{text!r} is not a duration such as 500ms, 30s, 5m or 1h", path)
    return int(found[1]) * _SECONDS[found[2]]


def _source(parameters: Parameters, algorithms: frozenset[str]) -> KeySource:
    given = [name for name in ("jwks", "jwk_set", "pem_keys") if name in parameters]
    if len(given) != 1:
        raise ParameterError("exactly one of jwks, jwk_set and pem_keys says where the keys are")
    if given == ["jwks"]:
        symmetric = sorted(algorithms.intersection(SYMMETRIC))
        if symmetric:
            raise ParameterError(f"{symmetric[0]} needs a secret, and a fetched key set holds none", "/algorithms")
        return shared_key_set(_remote(parameters["jwks"]))
    keys = _inline(parameters)
    if not any(key.algorithms & algorithms for key in keys.keys):
        usable = ", ".join(sorted(frozenset().union(*(key.algorithms for key in keys.keys))))
        raise ParameterError(f"none of the keys fits an allowed algorithm; they are for {usable}", "/algorithms")
    return InlineKeys(keys)


def _inline(parameters: Parameters) -> KeySet:
    if "jwk_set" in parameters:
        try:
            return key_set_from_jwks(_plain(parameters["jwk_set"]), inline=True)
        except KeyProblem as problem:
            raise ParameterError(problem.message, f"/jwk_set{problem.path}") from None
    keys = []
    for index, entry in enumerate(parameters["pem_keys"]):
        try:
            keys.append(key_from_pem(entry["pem"], entry.get("kid")))
        except KeyProblem as problem:
            raise ParameterError(problem.message, f"/pem_keys/{index}/pem") from None
    return KeySet(keys)


def _plain(value: Any) -> Any:
    """Return a copy in dicts and lists, which is what JSON parsing would have given."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _remote(jwks: Mapping[str, Any]) -> RemoteSettings:
    url = jwks["url"]
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if (
        not usable
        or parts.username is not None
        or parts.fragment
        or not url.isascii()
        or re.search(r"[\x00-\x20]", url)
    ):
        raise ParameterError("an https URL without user name and fragment is expected", "/jwks/url")
    ca_file = jwks.get("ca_file")
    if ca_file is not None:
        try:
            tls_context(ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise ParameterError(f"not a file of PEM certificates that can be read: {error}", "/jwks/ca_file") from None
    standard = RemoteSettings(url)
    durations = {
        name: seconds(jwks[name], f"/jwks/{name}") if name in jwks else getattr(standard, name)
        for name in ("timeout", "cache_ttl", "max_cache_ttl", "stale_for", "min_refresh_interval")
    }
    return RemoteSettings(url, ca_file, max_bytes=jwks.get("max_bytes", standard.max_bytes), **durations)
