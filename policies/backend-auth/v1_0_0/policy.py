"""The upstream gets credentials of the gateway's own, and not those that the client sent unless that is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from concurrent.futures import Future
from typing import Any

from policy_engine.sdk import (
    Expression,
    ExpressionFailed,
    ImmediateResponse,
    Json,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestAction,
    RequestMutation,
    UnreadableHeader,
    credentials,
    format_pointer,
    header_name,
    header_value,
)
from policy_expressions import Budget
from policy_http import CallFailed, Kept, seconds, server_from
from policy_tokens import client_authentication

from .issued import Issued, Settings, TokenEndpoint, shared_endpoint
from .signed import Signer, signing_key

_WAYS = ("key", "jwt", "client_credentials", "token_exchange")
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 # the name of a kind
_REGISTERED = ("iat", "exp", "jti")


class BackendAuth(Policy):
    """Sets one header; 503 where no token can be had, 401 where the client's own cannot be exchanged."""

    def __init__(self, parameters: Parameters) -> None:
        given = [name for name in _WAYS if name in parameters]
        if len(given) != 1:
            raise ParameterError(f"exactly one of {', '.join(_WAYS)} says what the upstream gets")
        self._header = _name(parameters.get("header", "authorization"), "/header")
        prefix = parameters.get("prefix", "Bearer")
        self._prefix = f"{prefix} " if prefix else ""
        self._remove: tuple[str, ...] = ()
        if not parameters.get("keep_client_authorization", False):
            theirs = {"authorization", _subject_header(parameters)}
            self._remove = tuple(sorted(theirs - {self._header}))
        self.credentials = (self._header,)
        self._fixed: RequestMutation | None = None
        self._signer: Signer | None = None
        self._claims: dict[str, Json] = {}
        self._asked_claims: dict[str, Expression[Json]] = {}
        self._subject: tuple[str, str] | None = None
        way = parameters[given[0]]
        if given[0] == "key":
            try:
                self._fixed = self._with(header_value(way))
            except ValueError:
                raise ParameterError("this cannot stand in a header", "/key") from None
        elif given[0] == "jwt":
            self._signer = self._signer_of(way)
        else:
            self._endpoint = self._endpoint_of(way, given[0])

    def on_request_headers(self, request: Request) -> RequestAction | Awaitable[RequestAction | None] | None:
        """Set the header; an awaitable only when the authorization server must be asked."""
        if self._fixed is not None:
            return self._fixed
        if self._signer is not None:
            return self._signed(request, self._signer)
        subject = ""
        if self._subject is not None:
            try:
                subject = credentials(request.headers, *self._subject) or ""
            except UnreadableHeader:
                return ImmediateResponse(400, details="backend_auth_several_tokens")
            if not subject:
                return _refused("backend_auth_token_missing")
        found = self._endpoint.token(subject)
        return self._later(found) if isinstance(found, Future) else self._issued(found)

    async def _later(self, call: Future[Kept[Issued]]) -> RequestAction:
        try:
            return self._issued(await self._endpoint.wait(call))
        except CallFailed:
            return ImmediateResponse(503, headers={"retry-after": "5"}, details="backend_auth_unavailable")

    def _issued(self, found: Issued) -> RequestAction:
        return _refused("backend_auth_token_refused") if found.token is None else self._with(found.token)

    def _signed(self, request: Request, signer: Signer) -> RequestAction:
        budget = Budget()
        claims = dict(self._claims)
        for name, expression in self._asked_claims.items():
            try:
                claims[name] = expression.evaluate(request)
            except ExpressionFailed:
                return ImmediateResponse(403, details=f"backend_auth_claim_unknown:{name}")
            if budget.spent():
                return ImmediateResponse(403, details="backend_auth_too_expensive")
        return self._with(signer.token(claims))

    def _with(self, secret: str) -> RequestMutation:
        return RequestMutation(remove_headers=self._remove, set_headers={self._header: f"{self._prefix}{secret}"})

    def _signer_of(self, way: Mapping[str, Any]) -> Signer:
        for name, value in way["claims"].items():
            where = "/jwt" + format_pointer(("claims", name))
            if name in _REGISTERED:
                raise ParameterError(f"{name} is set by the policy", where)
            if isinstance(value, Mapping):
                if set(value) != {"cel"}:
                    raise ParameterError("a value, or an object with cel alone, is expected", where)
                self._asked_claims[name] = self.expression(value["cel"], f"{where}/cel")
            else:
                self._claims[name] = list(value) if isinstance(value, tuple) else value
        algorithm = way.get("algorithm", "RS256")
        ttl = seconds(way.get("ttl", "5m"), "/jwt/ttl")
        if not ttl:
            raise ParameterError("a token has to be good for some time", "/jwt/ttl")
        return Signer(signing_key(way["key"], algorithm, "/jwt/key"), algorithm, way.get("kid"), ttl)

    def _endpoint_of(self, way: Mapping[str, Any], kind: str) -> TokenEndpoint:
        path = f"/{kind}"
        form = {"scope": " ".join(way.get("scopes", ()))}
        form |= {name: way[name] for name in ("audience", "resource") if name in way}
        if kind == "client_credentials":
            form["grant_type"] = "client_credentials"
        else:
            form["grant_type"] = _EXCHANGE
            form["subject_token_type"] = way.get("subject_token_type", _ACCESS_TOKEN)
            subject = way.get("subject", {})
            prefix = subject.get("prefix", "Bearer")
            name = _name(subject.get("header", "authorization"), f"{path}/subject/header")
            self._subject = (name, f"{prefix} " if prefix else "")
            self.credentials = tuple({self._header, name})
        settings = Settings(
            server_from(way["endpoint"], f"{path}/endpoint"),
            client_authentication(way, path),
            tuple(sorted((name, value) for name, value in form.items() if value)),
            way.get("cache_size", 10_000) if kind == "token_exchange" else 1,
        )
        return shared_endpoint(settings)


def _subject_header(parameters: Parameters) -> str:
    subject: Mapping[str, str] = parameters.get("token_exchange", {}).get("subject", {})
    return subject.get("header", "authorization").lower()


def _refused(reason: str) -> ImmediateResponse:
    return ImmediateResponse(401, headers={"www-authenticate": "Bearer"}, details=reason)


def _name(name: str, path: str) -> str:
    try:
        return header_name(name)
    except ValueError as error:
        raise ParameterError(str(error), path) from None
