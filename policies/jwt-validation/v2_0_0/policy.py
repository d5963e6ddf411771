"""A valid token whose claims allow the request gets in; its claims go to later policies and, if wanted, upstream."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any

from policy_engine.sdk import (
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestAction,
    RequestMutation,
    header_name,
)
from policy_jwt import InvalidToken, KeysUnavailable, Verified, bearer_from, verifier_from
from policy_tokens import claim_rules, claims_to_headers, required_scopes


class JwtValidation(Policy):
    """401 unless the token is to be trusted (503 without keys), 403 unless its claims meet the rules.

    Else the claims are in `metadata["jwt"]`.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._bearer = bearer_from(parameters)
        self._verifier = verifier_from(parameters)
        self._scopes = required_scopes(parameters)
        self._rules = claim_rules(parameters)
        self._claim_headers = claims_to_headers(parameters)
        self._payload_header = _payload_header(parameters)
        drop = [rule.header for rule in self._claim_headers]
        if self._payload_header is not None:
            drop.append(self._payload_header)
        if self._bearer.header in drop or len(drop) != len(set(drop)):
            raise ParameterError("the token and everything that goes upstream each need a header of their own")
        if not parameters.get("forward_token", True):
            drop.append(self._bearer.header)
        self._drop = tuple(drop)
        self.credentials = tuple(one for one in (self._bearer.header, self._payload_header) if one is not None)

    def on_request_headers(self, request: Request) -> RequestAction | Awaitable[RequestAction | None] | None:
        """Check the token; an awaitable only when keys must be fetched first."""
        token = self._bearer.token(request)
        if isinstance(token, ImmediateResponse):
            return token
        try:
            found = self._verifier.verify(token)
        except InvalidToken as refusal:
            return self._bearer.refused(refusal.reason)
        except KeysUnavailable:
            return self._bearer.unavailable()
        if isinstance(found, Verified):
            return self._accept(request, found)
        return self._accept_later(request, found)

    async def _accept_later(self, request: Request, found: Coroutine[Any, Any, Verified]) -> RequestAction | None:
        try:
            return self._accept(request, await found)
        except InvalidToken as refusal:
            return self._bearer.refused(refusal.reason)
        except KeysUnavailable:
            return self._bearer.unavailable()

    def _accept(self, request: Request, found: Verified) -> RequestAction | None:
        claims = found.claims
        if self._scopes is not None and not self._scopes.met_by(claims):
            return self._bearer.forbidden("jwt_scope_missing", self._scopes.text)
        if not all(rule.met_by(claims) for rule in self._rules):
            return self._bearer.forbidden("jwt_claim_rule_not_met")
        headers = {} if self._payload_header is None else {self._payload_header: found.payload}
        for rule in self._claim_headers:
            try:
                value = rule.value(claims)
            except ValueError:
                return self._bearer.refused("jwt_claim_not_a_header_value")
            if value is not None:
                headers[rule.header] = value
        request.metadata["jwt"] = claims
        if not self._drop:
            return None
        return RequestMutation(remove_headers=[name for name in self._drop if name not in headers], set_headers=headers)


def _payload_header(parameters: Parameters) -> str | None:
    if "payload_header" not in parameters:
        return None
    try:
        return header_name(parameters["payload_header"])
    except ValueError as error:
        raise ParameterError(str(error), "/payload_header") from None
