"""Bearer tokens on the wire (RFC 6750): where one stands in a request, and the answers when it is not accepted."""

from __future__ import annotations

from functools import lru_cache

from policy_engine.sdk import (
    ImmediateResponse,
    ParameterError,
    Parameters,
    Request,
    UnreadableHeader,
    credentials,
    header_name,
)


class Bearer:
    """Finds the token in `header` behind the scheme `prefix` (any case; empty for none) and builds the refusals.

    The client is told no more than the RFC's error code. The reason goes into Envoy's `%RESPONSE_CODE_DETAILS%`; those
    that are made here begin with `kind`.
    """

    def __init__(
        self, header: str = "authorization", prefix: str = "Bearer", realm: str = "api", *, kind: str = "jwt"
    ) -> None:
        self.header = header
        self._start = f"{prefix} " if prefix else ""
        self._realm = realm
        self._kind = kind
        self._answer = lru_cache(maxsize=64)(self._build)

    def token(self, request: Request) -> str | ImmediateResponse:
        """Return the token, or the answer to a request without one, or with more than one."""
        try:
            token = credentials(request.headers, self.header, self._start)
        except UnreadableHeader:
            return self._answer(400, "invalid_request", f"{self._kind}_several_tokens")
        return token or self._answer(401, "", f"{self._kind}_missing")

    def refused(self, reason: str) -> ImmediateResponse:
        """Return the answer to a token that is not to be trusted."""
        return self._answer(401, "invalid_token", reason)

    def forbidden(self, reason: str, scope: str = "") -> ImmediateResponse:
        """Return the answer to a good token that does not allow this; `scope` is what would."""
        return self._answer(403, "insufficient_scope", reason, scope)

    def unavailable(self, reason: str = "jwt_keys_unavailable") -> ImmediateResponse:
        """Return the answer when there is nothing to check a token with."""
        return ImmediateResponse(503, headers={"retry-after": "5"}, details=reason)

    def _build(self, status: int, error: str, reason: str, scope: str = "") -> ImmediateResponse:
        challenge = f'Bearer realm="{self._realm}"'
        if error:
            challenge += f', error="{error}"'
        if scope:
            challenge += f', scope="{scope}"'
        return ImmediateResponse(status, headers={"www-authenticate": challenge}, details=reason)


def bearer_at(parameters: Parameters, kind: str) -> Bearer:
    """Build what finds the token from `token` and `realm`; raises ParameterError."""
    token = parameters.get("token", {})
    try:
        name = header_name(token.get("header", "authorization"))
    except ValueError as error:
        raise ParameterError(str(error), "/token/header") from None
    return Bearer(name, token.get("prefix", "Bearer"), parameters.get("realm", "api"), kind=kind)
