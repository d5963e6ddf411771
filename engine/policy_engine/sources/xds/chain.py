"""The wire form of a chain, the message `policyengine.v1.PolicyChain`, and its translation from and to chain-file keys.

A separate module because engine and control plane both need it and nothing else of each other. The message is
described here in Python rather than generated, so that a plain `pip install` needs no protobuf compiler; a test
compiles `protos/policy_engine/v1/chain.proto`, the contract for other languages, and holds the two equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory, struct_pb2
from google.protobuf.message import DecodeError

from policy_engine.sdk.json_pointer import format_pointer

PACKAGE: Final = "policyengine.v1"
TYPE_URL: Final = f"type.googleapis.com/{PACKAGE}.PolicyChain"
PROTO_FILE: Final = "policy_engine/v1/chain.proto"

MAX_EXACT_INTEGER: Final = 2**53
"""Largest integer that a `google.protobuf.Struct` carries exactly; its numbers are doubles."""

_FAILURE_MODES: Final = {"closed": 1, "open": 2}
_FAILURE_MODE_NAMES: Final = {0: "closed", 1: "closed", 2: "open"}

_FIELDS: Final = frozenset({"name", "version", "enabled", "condition", "failure_mode", "timeout", "parameters"})
"""Keys of an entry that have fields of their own."""
_CHAIN_FIELDS: Final = frozenset({"route_key", "policies", "errors"})

_Field = descriptor_pb2.FieldDescriptorProto


class ChainError(ValueError):
    """A chain cannot be read from, or written to, its wire form.

    `path` is a JSON Pointer into the chain, `reason` the message without it, `route_key` the chain's name where it
    could be read.
    """

    def __init__(self, message: str, path: str = "", route_key: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.reason = message
        self.path = path
        self.route_key = route_key


def file_descriptor() -> descriptor_pb2.FileDescriptorProto:
    """Return the description of `chain.proto`, as a compiler would make it of that file."""
    file = descriptor_pb2.FileDescriptorProto(
        name=PROTO_FILE,
        package=PACKAGE,
        syntax="proto3",
        dependency=[duration_pb2.DESCRIPTOR.name, struct_pb2.DESCRIPTOR.name],
    )
    failure_mode = file.enum_type.add(name="FailureMode")
    for number, name in enumerate(("UNSPECIFIED", "CLOSED", "OPEN")):
        failure_mode.value.add(name=f"FAILURE_MODE_{name}", number=number)
    instance = file.message_type.add(name="PolicyInstance")
    _add(instance, "name", 1, _Field.TYPE_STRING)
    _add(instance, "version", 2, _Field.TYPE_STRING)
    enabled = _add(instance, "enabled", 3, _Field.TYPE_BOOL)
    enabled.proto3_optional = True
    enabled.oneof_index = 0
    instance.oneof_decl.add(name="_enabled")
    _add(instance, "condition", 4, _Field.TYPE_STRING)
    _add(instance, "failure_mode", 5, _Field.TYPE_ENUM, f".{PACKAGE}.FailureMode")
    _add(instance, "timeout", 6, _Field.TYPE_MESSAGE, ".google.protobuf.Duration")
    _add(instance, "parameters", 7, _Field.TYPE_MESSAGE, ".google.protobuf.Struct")
    _add(instance, "entry", 8, _Field.TYPE_MESSAGE, ".google.protobuf.Struct")
    template = file.message_type.add(name="ErrorTemplate")
    _add(template, "status", 1, _Field.TYPE_STRING)
    _add(template, "content_type", 2, _Field.TYPE_STRING)
    _add(template, "body", 3, _Field.TYPE_STRING)
    errors = file.message_type.add(name="ErrorAnswers")
    _add(errors, "format", 1, _Field.TYPE_STRING)
    templates = _add(errors, "templates", 2, _Field.TYPE_MESSAGE, f".{PACKAGE}.ErrorTemplate")
    templates.label = _Field.LABEL_REPEATED
    chain = file.message_type.add(name="PolicyChain")
    _add(chain, "name", 1, _Field.TYPE_STRING)
    policies = _add(chain, "policies", 2, _Field.TYPE_MESSAGE, f".{PACKAGE}.PolicyInstance")
    policies.label = _Field.LABEL_REPEATED
    _add(chain, "errors", 3, _Field.TYPE_MESSAGE, f".{PACKAGE}.ErrorAnswers")
    _add(chain, "settings", 4, _Field.TYPE_MESSAGE, ".google.protobuf.Struct")
    return file


def _add(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: _Field.Type.ValueType, type_name: str = ""
) -> descriptor_pb2.FieldDescriptorProto:
    field = message.field.add(
        name=name, number=number, type=kind, label=_Field.LABEL_OPTIONAL, json_name=_json_name(name)
    )
    if type_name:
        field.type_name = type_name
    return field


def _json_name(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _message_class() -> Any:
    pool = descriptor_pool.Default()
    pool.Add(file_descriptor())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.PolicyChain"))


PolicyChain: Any = _message_class()
"""The message class. `Any`: a class made at run time has no attributes that a type checker could know."""


def encode(document: Mapping[str, Any]) -> bytes:
    """Return the wire form of a route of a chain file, the same bytes for the same content.

    The document must be valid (`worker` validates chains); raises ChainError for what the wire cannot carry: integers
    beyond 2^53, numbers that are not finite, values that are not JSON.

    An entry with keys that have no field of their own goes as a whole into `entry`, and without a name: an engine that
    does not know that field refuses the chain, where leaving something out might run it otherwise than it is meant. So
    do all entries of a chain with settings.
    """
    chain = PolicyChain(name=document["route_key"])
    settings = {name: value for name, value in document.items() if name not in _CHAIN_FIELDS}
    if settings:
        _check_carried(settings, "")
        chain.settings.update(settings)
    for index, policy in enumerate(document.get("policies") or ()):
        path = f"/policies/{index}"
        if settings or not _FIELDS.issuperset(policy):
            _check_carried(policy, path)
            chain.policies.add().entry.update(policy)
        else:
            _encode_policy(policy, chain.policies.add(), path)
    if "errors" in document:
        _encode_errors(chain.errors, document["errors"])
    wire: bytes = chain.SerializeToString(deterministic=True)
    return wire


def _encode_policy(policy: Mapping[str, Any], instance: Any, path: str) -> None:
    instance.name, instance.version = policy["name"], policy["version"]
    if "enabled" in policy:
        instance.enabled = policy["enabled"]
    if policy.get("condition"):
        instance.condition = policy["condition"]
    if "failure_mode" in policy:
        instance.failure_mode = _FAILURE_MODES[policy["failure_mode"]]
    if "timeout" in policy:
        instance.timeout.FromNanoseconds(_nanoseconds(policy["timeout"], f"{path}/timeout"))
    parameters = policy.get("parameters")
    if parameters:
        _check_carried(parameters, f"{path}/parameters")
        instance.parameters.update(parameters)


def decode(wire: bytes) -> dict[str, Any]:
    """Return the route of a chain file that `wire` stands for; the inverse of `encode`.

    The result has the right shape and still has to be validated. Raises ChainError for bytes that are no such message,
    a chain without a name, a failure mode of a later protocol version, and numbers that JSON does not have.
    """
    chain = PolicyChain()
    try:
        chain.ParseFromString(wire)
    except DecodeError:
        raise ChainError(f"the {len(wire)} bytes of the resource are not a {PACKAGE}.PolicyChain") from None
    if not chain.name:
        raise ChainError("the chain has no name; it must be the route's key", "/name")
    try:
        policies = [_decode_policy(policy, f"/policies/{index}") for index, policy in enumerate(chain.policies)]
        settings = _plain(chain.settings, "/settings")
    except ChainError as error:
        error.route_key = chain.name
        raise
    for name in _CHAIN_FIELDS & settings.keys():
        raise ChainError(f"{name!r} has a field of its own", f"/settings/{name}", chain.name)
    # A route whose keys count as unmapped has no list of policies, not even an empty one.
    listed = {} if "unmapped" in settings and not policies else {"policies": policies}
    errors = {"errors": _decode_errors(chain.errors)} if chain.HasField("errors") else {}
    return {"route_key": chain.name, **listed, **errors, **settings}


def _encode_errors(message: Any, errors: Mapping[str, Any]) -> None:
    message.SetInParent()
    message.format = errors.get("format", "")
    for template in errors.get("templates", ()):
        message.templates.add(**{name: str(value) for name, value in template.items()})


def _decode_errors(message: Any) -> dict[str, Any]:
    document: dict[str, Any] = {"format": message.format} if message.format else {}
    if message.templates:
        document["templates"] = [
            {field.name: value for field, value in template.ListFields()} for template in message.templates
        ]
    return document


def _decode_policy(instance: Any, path: str) -> dict[str, Any]:
    if instance.HasField("entry"):
        if instance.name or instance.version:
            raise ChainError("an instance with `entry` has no other field", f"{path}/entry")
        entry: dict[str, Any] = _plain(instance.entry, path)
        return entry
    document: dict[str, Any] = {"name": instance.name, "version": instance.version}
    if instance.HasField("enabled"):
        document["enabled"] = instance.enabled
    if instance.condition:
        document["condition"] = instance.condition
    mode = _FAILURE_MODE_NAMES.get(instance.failure_mode)
    if mode is None:
        raise ChainError(
            f"unknown failure mode {instance.failure_mode}; this engine knows 1 (closed), 2 (open)",
            f"{path}/failure_mode",
        )
    document["failure_mode"] = mode
    if instance.HasField("timeout"):
        document["timeout"] = _duration_text(instance.timeout, f"{path}/timeout")
    document["parameters"] = _plain(instance.parameters, f"{path}/parameters")
    return document


_UNITS: Final = {"ms": Decimal(10**6), "s": Decimal(10**9), "m": Decimal(60 * 10**9)}


def _nanoseconds(text: str, path: str) -> int:
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            try:
                return int(Decimal(text.removesuffix(unit)) * factor)
            except (InvalidOperation, ValueError, OverflowError):
                break
    raise ChainError(f"{text!r} is not a duration such as 500ms or 1s", path)


def _duration_text(duration: Any, path: str) -> str:
    nanoseconds = duration.seconds * 10**9 + duration.nanos
    if not 0 <= duration.nanos < 10**9 or nanoseconds <= 0:
        raise ChainError("the timeout must be a positive duration", path)
    if nanoseconds % 10**6:
        raise ChainError("the timeout must be a whole number of milliseconds", path)
    return f"{nanoseconds // 10**6}ms"


def _check_carried(value: Any, path: str) -> None:
    if isinstance(value, Mapping):
        for name, item in value.items():
            _check_carried(item, path + format_pointer((name,)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_carried(item, f"{path}/{index}")
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_EXACT_INTEGER:
        raise ChainError(
            f"the integer {value} is beyond 2^53 and would be rounded on the wire; write it as a string", path
        )
    elif isinstance(value, float) and not math.isfinite(value):
        raise ChainError(f"{value} is not a JSON number", path)
    elif value is not None and not isinstance(value, str | int | float | bool):
        raise ChainError(f"a {type(value).__name__} is not a JSON value", path)


def _plain(value: Any, path: str) -> Any:
    """Return a Struct as JSON-like data: keys sorted (a Struct has no order), whole numbers as `int`."""
    if isinstance(value, struct_pb2.Struct):
        return {name: _plain(value.fields[name], path + format_pointer((name,))) for name in sorted(value.fields)}
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _plain(value.struct_value, path)
    if kind == "list_value":
        return [_plain(item, f"{path}/{index}") for index, item in enumerate(value.list_value.values)]
    if kind == "number_value":
        return _plain_number(value.number_value, path)
    if kind == "null_value":
        return None
    if kind is None:
        raise ChainError("the value has no kind; a null must say so", path)
    return getattr(value, kind)


def _plain_number(number: float, path: str) -> int | float:
    if not math.isfinite(number):
        raise ChainError(f"{number} is not a JSON number", path)
    return int(number) if number.is_integer() and abs(number) <= MAX_EXACT_INTEGER else number
