"""The request and the response of one stream, as policies of both phases see them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl

from policy_engine.sdk.attributes import AttributeValue, EnvoyMetadata, Facts, GivenFacts
from policy_engine.sdk.header_fields import host_of
from policy_engine.sdk.headers import Headers

_State = TypeVar("_State")


class Request:
    """The HTTP request with the changes of earlier policies in it (R-05); read-only, change it by an action.

    In the response phase it is the request as it was sent upstream. `metadata` is the one mutable mapping shared by
    all policies of this request in both phases (R-04); last writer wins.
    """

    __slots__ = ("_facts", "_id", "_states", "body", "headers", "metadata", "route", "trace")

    def __init__(
        self,
        headers: Headers,
        *,
        route: str = "",
        request_id: str = "",
        client_address: str = "",
        body: bytes | None = None,
        metadata: MutableMapping[str, Any] | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        envoy_metadata: EnvoyMetadata | None = None,
        facts: Callable[[], Facts] | None = None,
    ) -> None:
        """Make a request; `facts`, the engine's, stands for what else Envoy tells and is called when somebody asks."""
        self.headers = headers
        self.route = route
        self._id = request_id
        self._facts: Facts | Callable[[], Facts] = facts or GivenFacts(
            client_address, attributes or {}, envoy_metadata or {}
        )
        self.body = body
        self.metadata: MutableMapping[str, Any] = {} if metadata is None else metadata
        self._states: dict[tuple[int, Callable[[], Any]], Any] | None = None
        self.trace: Any = None
        """The engine's: the span of this stream, None when it is not traced."""

    def apart(self, metadata: MutableMapping[str, Any]) -> Request:
        """Return a copy for the engine, with other metadata: what is set on it, or kept for it, stays with it."""
        other = copy.copy(self)
        other.metadata = metadata
        other._states = None
        return other

    def state_of(self, owner: object, kind: Callable[[], _State]) -> _State:
        """Return what `owner` alone keeps of `kind` for this request; see `Policy.state`."""
        states = self._states
        if states is None:
            states = self._states = {}
        # By identity: an owner lives longer than its requests, and need not be hashable.
        key = id(owner), kind
        state: _State | None = states.get(key)
        if state is None:
            state = states[key] = kind()
        return state

    def forget_states(self) -> None:
        """Drop what policies keep for this request; the engine's, at the end of the stream."""
        self._states = None

    @property
    def id(self) -> str:
        """The request id: Envoy's `x-request-id` unless given; read only when somebody asks."""
        return self._id or self.headers.get("x-request-id") or ""

    @property
    def client_address(self) -> str:
        """IP address of the client as Envoy sees it, without the port; empty when Envoy did not send it."""
        return self._told().client_address

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        """What Envoy knows of the request and its connection, by Envoy's names: `attributes["connection.mtls"]`.

        A policy gets those that its `policy.yaml` lists under `request_attributes`, each with its type in `ATTRIBUTES`;
        `NotAskedFor` is raised for others. What Envoy does not know of this request is absent, such as the name in a
        certificate that was not shown.
        """
        return self._told().attributes

    @property
    def envoy_metadata(self) -> EnvoyMetadata:
        """What filters before this one left in Envoy's dynamic metadata, by namespace; read-only JSON, lists as tuples.

        A policy gets the namespaces that its `policy.yaml` lists under `forwarding_namespaces`, as they were when the
        request's headers came: the claims of `jwt_authn`, what `ext_authz` or `geoip` found. Whole numbers are `int`.
        Raises `NotAskedFor` for other namespaces, ValueError for more than may be taken from Envoy.
        """
        return self._told().envoy_metadata

    def _told(self) -> Facts:
        facts = self._facts
        if callable(facts):
            facts = self._facts = facts()
        return facts

    @property
    def method(self) -> str:
        """HTTP method, upper case as sent."""
        return self.headers.get(":method") or ""

    @property
    def path(self) -> str:
        """Path without the query string."""
        return (self.headers.get(":path") or "").partition("?")[0]

    @property
    def target(self) -> str:
        """Path with the query string, exactly as in the `:path` pseudo-header."""
        return self.headers.get(":path") or ""

    @property
    def query_string(self) -> str:
        """What follows the first `?`, not decoded; empty without one."""
        return (self.headers.get(":path") or "").partition("?")[2]

    @property
    def query(self) -> dict[str, str]:
        """Decoded query parameters; the last of a repeated one wins."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    def query_values(self, name: str) -> tuple[str, ...]:
        """Return every value of the query parameter `name`, decoded, in order; empty when it is absent."""
        pairs = parse_qsl(self.query_string, keep_blank_values=True)
        return tuple(value for one, value in pairs if one == name)

    @property
    def authority(self) -> str:
        """Host and optional port the client asked for."""
        return self.headers.get(":authority") or ""

    @property
    def host(self) -> str:
        """The host of `authority`, the same for all spellings of it: `api.example.com` for `API.example.com.:80`."""
        return host_of(self.authority)

    @property
    def scheme(self) -> str:
        """`http` or `https` as the client used it."""
        return self.headers.get(":scheme") or ""

    def __repr__(self) -> str:
        return f"Request({self.method} {self.path} route={self.route!r})"


ResponseOrigin = Literal["upstream", "policy", "envoy"]
"""Who made a response; see `Response.origin`."""


class Response:
    """The HTTP response with the changes of earlier-run (inner) policies in it; read-only, change it by an action."""

    __slots__ = ("_origin", "body", "headers")

    def __init__(
        self,
        headers: Headers,
        *,
        body: bytes | None = None,
        origin: ResponseOrigin | Callable[[], ResponseOrigin] = "upstream",
    ) -> None:
        self.headers = headers
        self.body = body
        self._origin = origin

    @property
    def origin(self) -> ResponseOrigin:
        """Who made the response: `upstream`; `policy` for the answer of a policy further in, or of the engine in its
        place; `envoy` for an answer of Envoy's own, where Envoy's configuration lets the engine see which those are.
        """
        origin = self._origin
        if not isinstance(origin, str):
            origin = self._origin = origin()
        return origin

    @property
    def status(self) -> int:
        """HTTP status code; 0 when the upstream sent none."""
        value = self.headers.get(":status") or ""
        return int(value) if value.isdecimal() else 0

    def __repr__(self) -> str:
        return f"Response({self.status})"
