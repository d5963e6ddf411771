"""An opaque token that the authorization server knows gets in (RFC 7662); what it says of the token can go upstream."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from concurrent.futures import Future

from policy_engine.sdk import (
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestAction,
    RequestMutation,
)
from policy_http import CallFailed, Kept, seconds, server_from
from policy_tokens import (
    audiences_of,
    bearer_at,
    claim_rules,
    claims_to_headers,
    client_authentication,
    required_scopes,
)

from .introspection import Refused, Settings, Verdict, shared_introspector

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # b64token of RFC 6750, 2.1


class TokenIntrospection(Policy):
    """401 unless the server says that the token is active (503 without an answer), 403 unless its claims allow it.

    Else what the server says is in `metadata["introspection"]`.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._bearer = bearer_at(parameters, "token")
        self._is_dpop = parameters.get("token", {}).get("prefix", "Bearer").lower() == "dpop"
        self._longest = parameters.get("max_token_bytes", 4096)
        self._issuer = parameters.get("issuer")
        self._audiences = frozenset(parameters.get("audiences", ()))
        self._scopes = required_scopes(parameters)
        self._rules = claim_rules(parameters)
        self._claim_headers = claims_to_headers(parameters)
        drop = [rule.header for rule in self._claim_headers]
        if self._bearer.header in drop or len(drop) != len(set(drop)):
            raise ParameterError("the token and every claim that goes upstream each need a header of their own")
        if not parameters.get("forward_token", True):
            drop.append(self._bearer.header)
        self._drop = tuple(drop)
        self.credentials = (self._bearer.header,)
        self._introspector = shared_introspector(
            Settings(
                server_from(parameters["endpoint"], "/endpoint"),
                client_authentication(parameters),
                seconds(parameters.get("cache_ttl", "1m"), "/cache_ttl"),
                seconds(parameters.get("negative_cache_ttl", "10s"), "/negative_cache_ttl"),
                parameters.get("cache_size", 10_000),
                seconds(parameters.get("leeway", "30s"), "/leeway"),
            )
        )

    def on_request_headers(self, request: Request) -> RequestAction | Awaitable[RequestAction | None] | None:
        """Judge the token; an awaitable only when the server must be asked."""
        token = self._bearer.token(request)
        if isinstance(token, ImmediateResponse):
            return token
        if len(token) > self._longest:
            return self._bearer.refused("token_too_large")
        if _TOKEN.fullmatch(token) is None:
            return self._bearer.refused("token_malformed")
        found = self._introspector.ask(token)
        return self._judge_later(request, found) if isinstance(found, Future) else self._judge(request, found)

    async def _judge_later(self, request: Request, found: Future[Kept[Verdict]]) -> RequestAction | None:
        try:
            return self._judge(request, await self._introspector.wait(found))
        except CallFailed:
            return self._bearer.unavailable("introspection_unavailable")

    def _judge(self, request: Request, verdict: Verdict) -> RequestAction | None:
        if isinstance(verdict, Refused):
            return self._bearer.refused(verdict.reason)
        claims = verdict.claims()
        if self._issuer is not None and claims.get("iss") != self._issuer:
            return self._bearer.refused("token_wrong_issuer")
        if self._audiences and self._audiences.isdisjoint(audiences_of(claims.get("aud"))):
            return self._bearer.refused("token_wrong_audience")
        if str(claims.get("token_type", "")).lower() == "dpop" and not self._is_dpop:
            return self._bearer.refused("token_bound_to_key")  # RFC 9449, 7.1: without its proof it is stolen goods
        if self._scopes is not None and not self._scopes.met_by(claims):
            return self._bearer.forbidden("token_scope_missing", self._scopes.text)
        if not all(rule.met_by(claims) for rule in self._rules):
            return self._bearer.forbidden("token_claim_rule_not_met")
        headers = {}
        for rule in self._claim_headers:
            try:
                value = rule.value(claims)
            except ValueError:
                return self._bearer.refused("token_claim_not_a_header_value")
            if value is not None:
                headers[rule.header] = value
        request.metadata["introspection"] = claims
        if not self._drop:
            return None
        return RequestMutation(remove_headers=[name for name in self._drop if name not in headers], set_headers=headers)
