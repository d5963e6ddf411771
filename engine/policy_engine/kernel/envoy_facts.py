"""What Envoy sends about a request beside its headers, as policies see it: read when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from policy_engine.kernel.route_key import ATTRIBUTES as SENT
from policy_engine.kernel.route_key import client_address
from policy_engine.sdk.actions import Json
from policy_engine.sdk.attributes import (
    ATTRIBUTES,
    AttributeKind,
    AttributeValue,
    EnvoyMetadata,
    asked_attributes,
    asked_metadata,
)
from policy_engine.worker.chains.needs import Asked

MOST_VALUES = 4096
"""Values of metadata, counted through all levels and namespaces, that are taken from one request."""
DEEPEST = 16
_LARGEST_WHOLE = 2**53
"""Above it a double, as which JSON's numbers come here, does not tell whole numbers apart (RFC 8259, 6)."""
_DIGITS = 20


class EnvoyFacts:
    """Facts of the request whose first message this is; `asked` are the names that its chain may see."""

    __slots__ = ("_address", "_asked", "_attributes", "_message", "_metadata")

    def __init__(self, message: Any, asked: Asked) -> None:
        self._message = message
        self._asked = asked
        self._address: str | None = None
        self._attributes: Mapping[str, AttributeValue] | None = None
        self._metadata: EnvoyMetadata | None = None

    @property
    def client_address(self) -> str:
        """See `Request.client_address`."""
        if self._address is None:
            self._address = client_address(self._message)
        return self._address

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        """See `Request.attributes`."""
        if self._attributes is None:
            sent, names = self._message.attributes[SENT].fields, self._asked.attributes
            values = {name: _READERS[ATTRIBUTES[name]](sent[name]) for name in names if name in sent}
            known = {name: value for name, value in values.items() if value is not None}
            self._attributes = asked_attributes(known, names)
        return self._attributes

    @property
    def envoy_metadata(self) -> EnvoyMetadata:
        """See `Request.envoy_metadata`."""
        if self._metadata is None:
            sent, names = self._message.metadata_context.filter_metadata, self._asked.namespaces
            values = _Values()
            found = {name: values.of_fields(sent[name].fields, DEEPEST) for name in names if name in sent}
            self._metadata = asked_metadata(found, names)
        return self._metadata


def _text(value: Any) -> str | None:
    return str(value.string_value) if value.WhichOneof("kind") == "string_value" else None


def _whole_number(value: Any) -> int | None:
    # Envoy sends numbers as text; only those of CEL's type double come as numbers (ext_proc, matching_utils.cc).
    if value.WhichOneof("kind") == "number_value":
        return int(value.number_value)
    text = str(value.string_value)
    return int(text) if len(text) <= _DIGITS and text.removeprefix("-").isdecimal() else None


def _truth(value: Any) -> bool | None:
    return bool(value.bool_value) if value.WhichOneof("kind") == "bool_value" else None


_READERS: Mapping[AttributeKind, Callable[[Any], AttributeValue | None]] = {
    AttributeKind.STRING: _text,
    AttributeKind.INT: _whole_number,
    AttributeKind.BOOL: _truth,
}


class _Values:
    """Turns `google.protobuf.Struct` into read-only JSON, within bounds."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MOST_VALUES

    def of_fields(self, fields: Any, depth: int) -> Mapping[str, Json]:
        return MappingProxyType({str(name): self._of(value, depth) for name, value in fields.items()})

    def _of(self, value: Any, depth: int) -> Json:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"Envoy's metadata holds more than {MOST_VALUES} values")
        if not depth:
            raise ValueError(f"Envoy's metadata is nested more than {DEEPEST} deep")
        kind = value.WhichOneof("kind")
        if kind == "struct_value":
            return self.of_fields(value.struct_value.fields, depth - 1)
        if kind == "list_value":
            return tuple(self._of(one, depth - 1) for one in value.list_value.values)
        if kind == "number_value":
            number = float(value.number_value)
            return int(number) if number.is_integer() and abs(number) <= _LARGEST_WHOLE else number
        if kind == "string_value":
            return str(value.string_value)
        return bool(value.bool_value) if kind == "bool_value" else None
