"""The requests of the demo and what each must come to; data only, so that reading it is reading what is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from integration.harness.exchange import HeaderList
from integration.harness.tokens import Issuer

API_KEY = "demo-key-7Hq2"
"""A key for the demo alone; `chains.yaml` holds its SHA-256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A bearer token and the words that stand for it in the output, which has no room for tokens."""

    encoded: str
    shown: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A request and its expected outcome.

    `upstream_sees` are headers the upstream must have got; None means that the request must not reach it.
    `client_sees` are headers of the response, with None for one that must be absent.
    """

    title: str
    target: str
    status: int
    headers: HeaderList = ()
    token: Token | None = None
    upstream_sees: Mapping[str, str] | None = None
    client_sees: Mapping[str, str | None] = field(default_factory=dict)

    def sent_headers(self) -> HeaderList:
        """Return the headers to send."""
        return [*self.headers, *([("authorization", f"Bearer {self.token.encoded}")] if self.token else [])]

    def shown_headers(self) -> HeaderList:
        """Return the headers to print."""
        return [*self.headers, *([("authorization", f"Bearer <{self.token.shown}>")] if self.token else [])]


def cases(issuer: Issuer) -> Sequence[Case]:
    """Return the requests in the order they are sent."""
    return [
        public_route("policy-engine", "a public route: the request gets a header, the response loses one and gets one"),
        Case(title="a private route without a token", target="/private", status=401),
        Case(
            title="a token signed by a key the issuer does not have",
            target="/private",
            token=Token(encoded=issuer.wrong_key(), shown="wrong key"),
            status=401,
        ),
        Case(
            title="an expired token",
            target="/private",
            token=Token(encoded=issuer.expired(), shown="expired"),
            status=401,
        ),
        Case(
            title="a token that says it needs no signature",
            target="/private",
            token=Token(encoded=issuer.unsigned(), shown="alg: none"),
            status=401,
        ),
        Case(
            title="a token signed with the public key as if it were a shared secret",
            target="/private",
            token=Token(encoded=issuer.hmac_confusion(), shown="alg: HS256"),
            status=401,
        ),
        Case(
            title="a good token; its subject goes upstream",
            target="/private",
            token=Token(encoded=issuer.token(), shown="good"),
            status=200,
            upstream_sees={"x-user": "alice"},
        ),
        Case(
            title="jwt-validation v2 on another route: the token lacks what the claim rule asks for",
            target="/staff",
            token=Token(encoded=issuer.token(role="visitor"), shown="role: visitor"),
            status=403,
        ),
        Case(
            title="the same with the right claim; claims go upstream as headers",
            target="/staff",
            token=Token(encoded=issuer.token(role="staff"), shown="role: staff"),
            status=200,
            upstream_sees={"x-user": "alice", "x-role": "staff"},
        ),
        Case(title="an API key is needed", target="/partner", status=401),
        Case(title="a wrong API key", target="/partner", status=403, headers=[("x-api-key", "guess")]),
        Case(
            title="the right API key",
            target="/partner",
            status=200,
            headers=[("x-api-key", API_KEY)],
            upstream_sees={"x-client": "demo"},
        ),
        Case(title="a route with an empty chain passes unchanged", target="/open", status=200, upstream_sees={}),
        Case(title="a route the engine does not know is denied, not passed", target="/unmapped", status=500),
    ]


def public_route(gateway: str, title: str) -> Case:
    """Return the request whose chain the demo edits; `gateway` is what `chains.yaml` says at that moment."""
    return Case(
        title=title,
        target="/public",
        status=200,
        upstream_sees={"x-gateway": gateway},
        client_sees={"x-upstream": None, "x-served-by": "policy-engine"},
    )
