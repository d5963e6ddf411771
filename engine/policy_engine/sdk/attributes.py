"""What Envoy knows of a request beside what was sent: which attributes there are, and how policies see what they asked
for. A separate module because the names are checked wherever somebody may ask: manifest, conditions, generated Envoy
configuration, test kit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol, TypeVar

from policy_engine.sdk.actions import Json

AttributeValue = str | int | bool
EnvoyMetadata = Mapping[str, Mapping[str, Json]]


class AttributeKind(StrEnum):
    """The type of an attribute, by its name in Envoy's documentation and in CEL."""

    STRING = "string"
    INT = "int"
    BOOL = "bool"


_STRINGS = (
    *("request.path", "request.url_path", "request.host", "request.scheme", "request.method", "request.referer"),
    *("request.useragent", "request.time", "request.id", "request.protocol", "request.query"),
    *("source.address", "destination.address"),
    *("connection.requested_server_name", "connection.tls_version", "connection.transport_failure_reason"),
    *("connection.subject_local_certificate", "connection.subject_peer_certificate"),
    *("connection.dns_san_local_certificate", "connection.dns_san_peer_certificate"),
    *("connection.uri_san_local_certificate", "connection.uri_san_peer_certificate"),
    *("connection.sha256_peer_certificate_digest", "connection.peer_certificate"),
    *("xds.cluster_name", "xds.route_name", "xds.virtual_host_name", "xds.filter_chain_name"),
)
_INTEGERS = (
    *("request.size", "request.headers_bytes", "source.port", "destination.port", "connection.id"),
    "xds.listener_direction",
)

ATTRIBUTES: Final[Mapping[str, AttributeKind]] = MappingProxyType(
    dict.fromkeys(_STRINGS, AttributeKind.STRING)
    | dict.fromkeys(_INTEGERS, AttributeKind.INT)
    | {"connection.mtls": AttributeKind.BOOL}
)
"""Every attribute that may be asked for, from Envoy's page "Attributes"; `request.time` is text as in RFC 3339.

An older Envoy leaves out what it does not know. Attributes of maps and messages are left out here, because Envoy sends
their debug text: headers are in `request.headers`, metadata in `request.envoy_metadata`.
"""

_NOT_YET = ("response.", "upstream.", "request.duration", "request.total_size", "connection.termination_details")
_MESSAGES = ("request.headers", "metadata", "filter_state", "upstream_filter_state", "xds.")


def why_not(name: str) -> str:
    """Return why the attribute `name` cannot be asked for, without its name; empty when it can."""
    if name in ATTRIBUTES:
        return ""
    if name.startswith(_NOT_YET):
        return "is not known to Envoy when a request's headers are handled"
    if name in _MESSAGES or (name.startswith("xds.") and name.endswith(("_metadata", ".node"))):
        return "is a map or a message, of which Envoy sends only its debug text"
    return "is not an attribute of Envoy"


class NotAskedFor(LookupError):
    """Raised for an attribute or a metadata namespace that no policy of the chain has declared.

    Not a KeyError: `get` and `in` raise it too. What was never asked for looks like what Envoy does not have, and a
    policy that took the one for the other would be open.
    """


_Value_co = TypeVar("_Value_co", covariant=True)


class AskedFor(Mapping[str, _Value_co]):
    """What Envoy told of what it was asked, read-only; what it did not send is absent, as in any mapping.

    `names` are what was asked for, all when None; `what` and `key` say in an error what a name stands for, and where it
    is declared.
    """

    __slots__ = ("_key", "_names", "_values", "_what")

    def __init__(self, values: Mapping[str, _Value_co], names: frozenset[str] | None, *, what: str, key: str) -> None:
        self._values = values
        self._names = names
        self._what = what
        self._key = key

    def __getitem__(self, name: str) -> _Value_co:
        if self._names is not None and name not in self._names:
            asked = ", ".join(sorted(self._names)) or "none"
            raise NotAskedFor(
                f"{self._what} {name!r} is asked for by no policy of this chain; list it under `{self._key}` in "
                f"policy.yaml (asked for: {asked})"
            )
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        # Names only: values may be personal data, and a repr ends up in logs.
        return f"{type(self).__name__}({sorted(self._values)})"


def asked_attributes(
    values: Mapping[str, AttributeValue], names: frozenset[str] | None = None
) -> Mapping[str, AttributeValue]:
    """Return attributes as policies see them; `names` are those asked for, all that are there when None."""
    return AskedFor(values, names, what="the attribute", key="request_attributes")


def asked_metadata(values: EnvoyMetadata, names: frozenset[str] | None = None) -> EnvoyMetadata:
    """Return Envoy's metadata by namespace as policies see it; `names` are the namespaces asked for."""
    return AskedFor(values, names, what="the metadata namespace", key="forwarding_namespaces")


class Facts(Protocol):
    """What a request's Envoy tells of it, worked out when somebody asks."""

    @property
    def client_address(self) -> str:
        """See `Request.client_address`."""
        ...

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        """See `Request.attributes`."""
        ...

    @property
    def envoy_metadata(self) -> EnvoyMetadata:
        """See `Request.envoy_metadata`."""
        ...


class GivenFacts:
    """Facts that are known from the start, as in a test."""

    __slots__ = ("attributes", "client_address", "envoy_metadata")

    def __init__(self, client_address: str, attributes: Mapping[str, AttributeValue], metadata: EnvoyMetadata) -> None:
        self.client_address = client_address
        self.attributes = asked_attributes(attributes)
        self.envoy_metadata = asked_metadata(metadata)
