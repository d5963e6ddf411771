"""How settings are written: the forms of their values, each with what it takes and its inverse.

Separate from `model`, which says what settings there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from policy_engine.documents.quantities import (
    DURATION_FORM,
    DURATION_PATTERN,
    SIZE_FORM,
    SIZE_PATTERN,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)
from policy_engine.transport.client_names import ClientNames
from policy_engine.transport.listen import UNIX_PREFIX, parse_unix

AUTO = "auto"
WORKER_PLACE = "{worker}"
OFF = "off"
LOG = "log"
OTLP = "otlp"

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class Form:
    """How a setting is written: `parse` takes text (of a flag, a variable, the file), `allowed` says what it takes.

    `write` is the inverse of `parse`. `schema` is a JSON Schema of the values in a settings file, for editors; it may
    let pass what `parse` refuses.
    """

    parse: Callable[[str], Any]
    allowed: str
    write: Callable[[Any], str] = str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


def setting(form: Form, default: Any, description: str) -> Any:
    """Declare one setting, as a field of a settings class."""
    return field(default=default, metadata={"form": form, "description": description})


def whole_number(low: int, high: int) -> Form:
    """Return the form of a whole number."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,12}", text, re.ASCII):
            raise ValueError("is not a whole number")
        return _within(int(text), low, high)

    schema = {"type": "integer", "minimum": low, "maximum": high}
    return Form(parse, f"a whole number from {low} to {high}", schema=schema)


def workers(text: str) -> int | str:
    """Return a number of worker processes, or `auto`."""
    return AUTO if text == AUTO else int(whole_number(1, 1024).parse(text))


def duration(low: float, high: float) -> Form:
    """Return the form of a duration, in seconds."""

    def parse(text: str) -> float:
        return _within(parse_duration(text), low, high)

    schema = {"type": "string", "pattern": f"^{DURATION_PATTERN}$"}
    return Form(parse, f"{DURATION_FORM}; from {low:g}s to {high:g}s", format_duration, schema)


def size(low: int, high: int) -> Form:
    """Return the form of a size in bytes."""

    def parse(text: str) -> int:
        return _within(parse_size(text), low, high)

    schema = {"type": ["integer", "string"], "minimum": low, "maximum": high, "pattern": f"^{SIZE_PATTERN}$"}
    return Form(parse, f"{SIZE_FORM}; from {format_size(low)} to {format_size(high)}", format_size, schema)


def _within(value: _Number, low: float, high: float) -> _Number:
    if not low <= value <= high:
        raise ValueError("is out of range")
    return value


def choice(kind: type[StrEnum]) -> Form:
    """Return the form of one of several words."""

    def parse(text: str) -> StrEnum:
        if text not in tuple(kind):
            raise ValueError("is not one of the values allowed")
        return kind(text)

    return Form(parse, ", ".join(kind), schema={"enum": [one.value for one in kind]})


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("is not a boolean")
    return text == "true"


def _plain(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("is empty or not printable")
    return text


def _metadata_name(text: str) -> str:
    """Return a name that can stand in Envoy's attribute expression (`kernel.route_key`)."""
    if "'" in text or "\\" in text:
        raise ValueError("holds a quote or a backslash")
    return _plain(text)


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("is not a path")
    return Path(text)


def _socket(text: str) -> Path | None:
    """Return the path of a Unix socket, None for `off`; raises ValueError."""
    if text == OFF:
        return None
    found = parse_unix(f"{UNIX_PREFIX}{_path(text)}")
    if str(found.path) != text or not found.path.is_absolute():
        raise ValueError("is not an absolute path of a socket")
    return found.path


def _address(text: str) -> str:
    """Return `host:port`, `[v6]:port` or `unix:/path`; raises ValueError.

    `{worker}` in it stands for the number of the worker process, so that each has an address of its own.
    """
    written, text = text, text.replace(WORKER_PLACE, "0")
    if text.startswith(UNIX_PREFIX):
        if not parse_unix(text).path.is_absolute():
            raise ValueError("is not an absolute socket path")
        return written
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or not port.isascii() or int(port) > 65535:
        raise ValueError("is not host:port")
    if host.startswith("[") and host.endswith("]"):
        ip_address(host[1:-1])
    elif ":" in host:
        raise ValueError("is an IPv6 address without brackets")
    return written


def _addresses(text: str) -> tuple[str, ...]:
    found = tuple(_address(one.strip()) for one in text.split(","))
    if len(set(found)) != len(found):
        raise ValueError("names an address twice")
    return found


def _parts(text: str) -> tuple[str, ...]:
    return tuple(_plain(one.strip()) for one in text.split(",")) if text else ()


def _optional_size(text: str) -> int | None:
    return None if text == OFF else int(size(1024, 1 << 30).parse(text))


def _names(text: str) -> tuple[str, ...]:
    names = tuple(one.strip() for one in text.split(",")) if text else ()
    ClientNames(names)
    return names


def _loopback(text: str) -> str | None:
    if text == OFF:
        return None
    host = _address(text).rpartition(":")[0].strip("[]")
    if not text.startswith("unix:") and host != "localhost" and not ip_address(host).is_loopback:
        raise ValueError("is not a loopback address; admin pages are for this machine alone")
    return text


def collector(text: str) -> str | None:
    """Return the address of an OTLP/HTTP collector, None for `off`; raises ValueError."""
    if text == OFF:
        return None
    scheme, separator, address = text.partition("://")
    if scheme not in ("http", "https") or not separator or address.startswith("unix:"):
        raise ValueError("is not http://host:port or https://host:port")
    host, slash, path = address.partition("/")
    if _address(host).endswith(":4317"):
        raise ValueError("is the port for OTLP over gRPC; spans go over HTTP, whose port is 4318")
    if not re.fullmatch(r"[A-Za-z0-9._~/-]*", path, re.ASCII):
        raise ValueError("has a path with a query, a fragment or odd characters")
    return f"{scheme}://{host}{slash}{path}".rstrip("/")


def ratio(text: str) -> float:
    """Return a number from 0 to 1; raises ValueError."""
    if not re.fullmatch(r"\d(\.\d{1,9})?", text, re.ASCII):
        raise ValueError("is not a number from 0 to 1")
    return _within(float(text), 0, 1)


def _output(text: str) -> str:
    if text not in (LOG, OTLP) and not _path(text).is_absolute():
        raise ValueError("is neither log, otlp nor an absolute path")
    return text


def _optional_address(text: str) -> str | None:
    return None if text == OFF else _address(text)


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(_path(one.strip()) for one in text.split(",")) if text else ()


def _hosts(text: str) -> tuple[str, ...]:
    names = tuple(one.strip().lower() for one in text.split(",")) if text else ()
    if not all(re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", one, re.ASCII) for one in names):
        raise ValueError("has a name that is no host name; ports are left out")
    return names


def _written_list(values: Iterable[object]) -> str:
    return ",".join(str(one) for one in values)


def written_or_off(value: str | None) -> str:
    """Write a value that may be None, which is `off`."""
    return OFF if value is None else value


def _written_boolean(value: bool) -> str:
    return "true" if value else "false"


def _written_or_nothing(value: object) -> str:
    return "" if value is None else str(value)


_UNIX = "unix:/path; ?mode=0660&group=NAME after it lets clients of other users in"
_LIST: Mapping[str, Any] = {"type": ["string", "array"], "items": {"type": "string"}}
ADDRESS = Form(_address, "host:port", _written_or_nothing)
ADDRESSES = Form(_addresses, f"a list of host:port, [v6]:port or {_UNIX}", _written_list, _LIST)
LOOPBACK = Form(_loopback, "a loopback host:port, unix:/path, or off", written_or_off)
OPTIONAL_ADDRESS = Form(_optional_address, "host:port, unix:/path, or off", written_or_off)
NAMES = Form(_names, "a list of DNS names and URIs", _written_list, _LIST)
BOOLEAN = Form(_boolean, "true, false", _written_boolean, {"type": "boolean"})
TEXT = Form(_plain, "text", _written_or_nothing)
METADATA_NAME = Form(_metadata_name, "text without quotes and backslashes", _written_or_nothing)
PARTS = Form(_parts, "a list of parts of a route key", _written_list, _LIST)
HOSTS = Form(_hosts, "a list of host names without ports", _written_list, _LIST)
FILE = Form(_path, "a path", _written_or_nothing)
SOCKET = Form(_socket, "an absolute path, or off", lambda value: OFF if value is None else str(value))
FILES = Form(_paths, "a list of paths", _written_list, _LIST)
COLLECTOR = Form(collector, "http://host:port, https://host:port/path, or off", written_or_off)
RATIO = Form(
    ratio,
    "a number from 0 to 1",
    lambda value: f"{value:g}",
    {"type": ["number", "string"], "minimum": 0, "maximum": 1},
)
WORKERS = Form(
    workers,
    "a whole number from 1 to 1024, or auto",
    schema={"anyOf": [{"const": AUTO}, {"type": "integer", "minimum": 1, "maximum": 1024}]},
)
OUTPUT = Form(_output, "log, otlp, or an absolute path")
OPTIONAL_SIZE = Form(
    _optional_size,
    f"{SIZE_FORM}; from 1KiB to 1GiB, or off",
    lambda value: OFF if value is None else format_size(value),
)
