"""From the parameters that the versions of `jwt-validation` share to the objects that do the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policy_engine.sdk import ParameterError, Parameters
from policy_http import checked_ca_file, seconds, server_of
from policy_jwt.claims import Expected
from policy_jwt.keys import SYMMETRIC, KeyProblem, KeySet, key_from_pem, key_set_from_jwks
from policy_jwt.remote import RemoteSettings, shared_key_set
from policy_jwt.verifier import InlineKeys, KeySource, Verifier
from policy_tokens import Bearer, bearer_at

DEFAULT_ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")


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
    return bearer_at(parameters, "jwt")


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
    server_of(url, "/jwks/url", plain=None)
    ca_file = checked_ca_file(jwks.get("ca_file"), "/jwks/ca_file")
    standard = RemoteSettings(url)
    durations = {
        name: seconds(jwks[name], f"/jwks/{name}") if name in jwks else getattr(standard, name)
        for name in ("timeout", "cache_ttl", "max_cache_ttl", "stale_for", "min_refresh_interval")
    }
    return RemoteSettings(url, ca_file, max_bytes=jwks.get("max_bytes", standard.max_bytes), **durations)
