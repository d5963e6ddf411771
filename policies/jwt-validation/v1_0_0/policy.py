"""A valid token gets in, its claims go to the policies that follow and, if wanted, upstream."""

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
    header_value,
)
from policy_jwt import InvalidToken, KeysUnavailable, Verified, bearer_from, verifier_from


class JwtValidation(Policy):
    """401 unless the token is to be trusted (503 without keys), else the claims in `metadata["jwt"]`."""

    def __init__(self, parameters: Parameters) -> None:
        self._bearer = bearer_from(parameters)
        self._verifier = verifier_from(parameters)
        self._subject_header = _header(parameters, "subject_header")
        self._payload_header = _header(parameters, "payload_header")
        drop = [name for name in (self._subject_header, self._payload_header) if name is not None]
        if self._bearer.header in drop or len(drop) != len(set(drop)):
            raise ParameterError("token, subject and payload each need a header of their own", "/subject_header")
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
        request.metadata["jwt"] = found.claims
        if not self._drop:
            return None
        headers: dict[str, str] = {}
        if self._payload_header is not None:
            headers[self._payload_header] = found.payload
        if self._subject_header is not None and "sub" in found.claims:
            try:
                headers[self._subject_header] = header_value(found.claims["sub"])
            except ValueError:
                return self._bearer.refused("jwt_claim_not_a_header_value")
        return RequestMutation(remove_headers=[name for name in self._drop if name not in headers], set_headers=headers)


def _header(parameters: Parameters, name: str) -> str | None:
    if name not in parameters:
        return None
    try:
        return header_name(parameters[name])
    except ValueError as error:
        raise ParameterError(str(error), f"/{name}") from None
