"""Every runtime setting of the engine, typed, with its default, its meaning and how it is written (R-25).

Separate so that there is one list: the settings file, the environment variables, the flags, `config show`
and the sample file are all derived from these classes. Reading them from their sources is `loading`.
"""

# ruff: noqa: RUF009 - setting() makes a dataclass field, so nothing is shared between instances

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from policy_engine.documents.quantities import (
    DURATION_FORM,
    SIZE_FORM,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)
from policy_engine.limits import (
    BLOCKING_THREADS,
    BODY_LIMIT,
    CONNECTIONS,
    CONSTRUCTION_SECONDS,
    FILE_SETTLE_SECONDS,
    HEADER_COUNT,
    HEADER_SIZE,
    LARGEST_HEADERS,
    LONGEST_POLICY_TIMEOUT,
    POLICY_TIMEOUT,
    STREAMS,
    WORKER_SECONDS,
)
from policy_engine.transport.client_names import ClientNames
from policy_engine.transport.listen import UNIX_PREFIX, parse_unix

AUTO = "auto"
WORKER_PLACE = "{worker}"
OFF = "off"

_Number = TypeVar("_Number", int, float)


class Transport(StrEnum):
    """Which server carries ext_proc."""

    NATIVE = "native"
    GRPCIO = "grpcio"


class ConfigurationSource(StrEnum):
    """Where chains come from."""

    FILE = "file"
    XDS = "xds"


class RouteKeySource(StrEnum):
    """What of Envoy's message is the route key (R-07)."""

    ROUTE_NAME = "route_name"
    METADATA = "metadata"


class UnmappedRoutes(StrEnum):
    """What happens to a route that is not in the configuration (R-07)."""

    DENY = "deny"
    PASS = "pass"  # noqa: S105 - the word of the settings file, not a password


class Verify(StrEnum):
    """What becomes of code that is not what the builder wrote the digests of (R-47)."""

    REPORT = "report"
    STRICT = "strict"


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """From which severity on lines are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def usable_cores() -> int:
    """Return how many cores this process may use; macOS and Windows only know how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Form:
    """How a setting is written: `parse` takes text (of a flag, a variable, the file), `allowed` says what it takes.

    `write` is the inverse of `parse`.
    """

    parse: Callable[[str], Any]
    allowed: str
    write: Callable[[Any], str] = str


def setting(form: Form, default: Any, description: str) -> Any:
    """Declare one setting, as a field of a settings class."""
    return field(default=default, metadata={"form": form, "description": description})


def _whole_number(low: int, high: int) -> Form:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,12}", text, re.ASCII):
            raise ValueError("is not a whole number")
        return _within(int(text), low, high)

    return Form(parse, f"a whole number from {low} to {high}")


def _workers(text: str) -> int | str:
    return AUTO if text == AUTO else int(_whole_number(1, 1024).parse(text))


def _duration(low: float, high: float) -> Form:
    def parse(text: str) -> float:
        return _within(parse_duration(text), low, high)

    return Form(parse, f"{DURATION_FORM}; from {low:g}s to {high:g}s", format_duration)


def _size(low: int, high: int) -> Form:
    def parse(text: str) -> int:
        return _within(parse_size(text), low, high)

    return Form(parse, f"{SIZE_FORM}; from {format_size(low)} to {format_size(high)}", format_size)


def _within(value: _Number, low: float, high: float) -> _Number:
    if not low <= value <= high:
        raise ValueError("is out of range")
    return value


def _choice(kind: type[StrEnum]) -> Form:
    def parse(text: str) -> StrEnum:
        if text not in tuple(kind):
            raise ValueError("is not one of the values allowed")
        return kind(text)

    return Form(parse, ", ".join(kind))


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


def _collector(text: str) -> str | None:
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


def _ratio(text: str) -> float:
    if not re.fullmatch(r"\d(\.\d{1,9})?", text, re.ASCII):
        raise ValueError("is not a number from 0 to 1")
    return _within(float(text), 0, 1)


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


def _written_or_off(value: str | None) -> str:
    return OFF if value is None else value


def _written_boolean(value: bool) -> str:
    return "true" if value else "false"


def _written_or_nothing(value: object) -> str:
    return "" if value is None else str(value)


_UNIX = "unix:/path; ?mode=0660&group=NAME after it lets clients of other users in"
ADDRESS = Form(_address, "host:port", _written_or_nothing)
ADDRESSES = Form(_addresses, f"a list of host:port, [v6]:port or {_UNIX}", _written_list)
LOOPBACK = Form(_loopback, "a loopback host:port, unix:/path, or off", _written_or_off)
OPTIONAL_ADDRESS = Form(_optional_address, "host:port, unix:/path, or off", _written_or_off)
NAMES = Form(_names, "a list of DNS names and URIs", _written_list)
BOOLEAN = Form(_boolean, "true, false", _written_boolean)
TEXT = Form(_plain, "text", _written_or_nothing)
METADATA_NAME = Form(_metadata_name, "text without quotes and backslashes", _written_or_nothing)
HOSTS = Form(_hosts, "a list of host names without ports", _written_list)
FILE = Form(_path, "a path", _written_or_nothing)
FILES = Form(_paths, "a list of paths", _written_list)


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """TLS of the ext_proc server; with `client_ca` every client must show a certificate (mTLS)."""

    cert: Path | None = setting(FILE, None, "certificate chain of the ext_proc server, PEM; without it, no TLS")
    key: Path | None = setting(FILE, None, "private key of the certificate, PEM")
    client_ca: Path | None = setting(FILE, None, "CA whose client certificates are accepted, PEM; makes them required")
    client_names: tuple[str, ...] = setting(
        NAMES,
        (),
        "names of which a client's certificate has to bear one, such as envoy.example, *.edge.example or "
        "spiffe://cluster.local/ns/gateways/*; any certificate of the CA unless set",
    )


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Where the policies are."""

    registry: Path | None = setting(FILE, None, "registry.json that the builder wrote")
    directory: Path | None = setting(FILE, None, "directory tree <name>/<v1_0_0>/ of policies, for development")
    verify: Verify = setting(
        _choice(Verify),
        Verify.REPORT,
        "what becomes of code on disk with another digest than the registry has; report runs it and says so",
    )


@dataclass(frozen=True, slots=True)
class XdsTlsSettings:
    """TLS towards the management server."""

    ca: Path | None = setting(FILE, None, "CA of the management server, PEM; without it, no TLS")
    cert: Path | None = setting(FILE, None, "client certificate for the management server, PEM")
    key: Path | None = setting(FILE, None, "private key of the client certificate, PEM")


@dataclass(frozen=True, slots=True)
class XdsSettings:
    """The management server, when `configuration` is `xds` (R-21)."""

    server: str | None = setting(ADDRESS, None, "management server")
    node_id: str | None = setting(TEXT, None, "this engine's node id; the host name unless set")
    delta: bool = setting(BOOLEAN, True, "ask for incremental xDS instead of state-of-the-world")
    last_known_good: Path | None = setting(FILE, None, "file that keeps the last good chains across a restart")
    tls: XdsTlsSettings = field(default_factory=XdsTlsSettings)


@dataclass(frozen=True, slots=True)
class RouteKeySettings:
    """Which part of Envoy's message is the route key (R-07)."""

    source: RouteKeySource = setting(
        _choice(RouteKeySource), RouteKeySource.ROUTE_NAME, "the route's name, or a key of its filter metadata"
    )
    namespace: str | None = setting(METADATA_NAME, None, "filter metadata namespace, when source is metadata")
    key: str | None = setting(METADATA_NAME, None, "key in that namespace, when source is metadata")


@dataclass(frozen=True, slots=True)
class ChainFileSettings:
    """When a chain file is taken for complete (R-20)."""

    settle: float = setting(
        _duration(0, 600), FILE_SETTLE_SECONDS, "time a chain file that was not renamed into place must be left alone"
    )
    end_marker: bool = setting(BOOLEAN, False, "refuse a chain file whose last line is not `...`, as half written")


@dataclass(frozen=True, slots=True)
class SecretSettings:
    """Where secrets of chains may come from (R-24)."""

    directories: tuple[Path, ...] = setting(
        FILES,
        (),
        "directories that ${file:…} may read from; unless set, everything, or nothing when configuration is xds",
    )


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """Admin pages (R-53)."""

    listen: str | None = setting(LOOPBACK, "127.0.0.1:9003", "admin pages, loopback only; off for none")
    hosts: tuple[str, ...] = setting(
        HOSTS, (), "host names, besides those of loopback, by which browsers may ask for admin pages, as behind a proxy"
    )


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """Health and metrics for machines (R-50, R-51)."""

    listen: str | None = setting(OPTIONAL_ADDRESS, "127.0.0.1:9004", "/livez, /readyz and /metrics; off for none")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Log lines (R-52)."""

    level: LogLevel = setting(_choice(LogLevel), LogLevel.INFO, "least severity that is logged")
    format: LogFormat = setting(_choice(LogFormat), LogFormat.JSON, "form of log lines")


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """Spans for OpenTelemetry (R-52)."""

    endpoint: str | None = setting(
        Form(_collector, "http://host:port, https://host:port/path, or off", _written_or_off),
        None,
        "OTLP/HTTP collector that spans are sent to (its /v1/traces); off for no tracing",
    )
    sample_ratio: float = setting(
        Form(_ratio, "a number from 0 to 1", lambda value: f"{value:g}"),
        1.0,
        "share of the requests traced that come without a sampling decision in `traceparent`",
    )
    service_name: str = setting(TEXT, "policy-engine", "`service.name` of the spans")


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What peers may make the engine hold (R-09, R-14)."""

    streams: int = setting(_whole_number(1, 1_000_000), STREAMS, "streams open at once in one worker process")
    connections: int = setting(
        _whole_number(1, 1_000_000),
        CONNECTIONS,
        "connections to one worker process; idle ones give way to new ones",
    )
    blocking_threads: int = setting(
        _whole_number(1, 1024), BLOCKING_THREADS, "threads for each blocking policy version"
    )
    header_count: int = setting(_whole_number(1, 10_000), HEADER_COUNT, "headers of one request or response")
    header_size: int = setting(
        _size(1024, LARGEST_HEADERS), HEADER_SIZE, "bytes of all headers of one request or response"
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """Every runtime setting; durations are in seconds, sizes in bytes.

    `origins` says for each setting (`tls.cert`) where its value came from.
    """

    listen: tuple[str, ...] = setting(ADDRESSES, ("127.0.0.1:9002",), "addresses that serve ext_proc")
    transport: Transport = setting(_choice(Transport), Transport.NATIVE, "server that carries ext_proc")
    workers: int | str = setting(Form(_workers, "a whole number from 1 to 1024, or auto"), AUTO, "worker processes")
    worker_timeout: float = setting(
        _duration(0.5, 3600),
        WORKER_SECONDS,
        "time without a sign of life after which a worker process is killed and replaced",
    )
    configuration: ConfigurationSource = setting(
        _choice(ConfigurationSource), ConfigurationSource.FILE, "where chains come from"
    )
    chains: Path = setting(FILE, Path("/etc/policy-engine/chains.yaml"), "chain file, or a directory of them")
    unmapped_routes: UnmappedRoutes = setting(
        _choice(UnmappedRoutes), UnmappedRoutes.DENY, "what happens to a route that is not in the configuration"
    )
    body_limit: int = setting(_size(0, 1 << 30), BODY_LIMIT, "largest body, also when decompressed")
    policy_timeout: float = setting(
        _duration(0.001, LONGEST_POLICY_TIMEOUT), POLICY_TIMEOUT, "timeout of a policy whose chain entry has none"
    )
    construction_timeout: float = setting(
        _duration(0.1, 600), CONSTRUCTION_SECONDS, "time a policy's constructor may take when chains are loaded"
    )
    drain_timeout: float = setting(_duration(0, 3600), 30.0, "time for streams in flight to end after SIGTERM")
    tls: TlsSettings = field(default_factory=TlsSettings)
    policies: PolicySettings = field(default_factory=PolicySettings)
    xds: XdsSettings = field(default_factory=XdsSettings)
    route_key: RouteKeySettings = field(default_factory=RouteKeySettings)
    chain_files: ChainFileSettings = field(default_factory=ChainFileSettings)
    secrets: SecretSettings = field(default_factory=SecretSettings)
    admin: AdminSettings = field(default_factory=AdminSettings)
    health: HealthSettings = field(default_factory=HealthSettings)
    log: LogSettings = field(default_factory=LogSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


def contradictions(settings: Settings) -> Mapping[str, str]:
    """Return what does not go together, by the name of the setting to mend (`tls.key`)."""
    found: dict[str, str] = {}
    for name, tls in (("tls", settings.tls), ("xds.tls", settings.xds.tls)):
        if (tls.cert is None) != (tls.key is None):
            missing = "key" if tls.key is None else "cert"
            found[f"{name}.{missing}"] = f"is not set, but {name}.{'cert' if missing == 'key' else 'key'} is"
    if settings.tls.client_names and settings.tls.client_ca is None:
        found["tls.client_ca"] = "is not set, but tls.client_names is; without a CA no client shows a certificate"
    if settings.tls.client_ca is not None and settings.tls.cert is None:
        found["tls.cert"] = "is not set, but tls.client_ca is; client certificates need TLS"
    if settings.xds.tls.cert is not None and settings.xds.tls.ca is None:
        found["xds.tls.ca"] = "is not set, but xds.tls.cert is; a client certificate needs TLS"
    if settings.configuration is ConfigurationSource.XDS and settings.xds.server is None:
        found["xds.server"] = "is not set, but configuration is xds"
    if settings.route_key.source is RouteKeySource.METADATA:
        for key in ("namespace", "key"):
            if getattr(settings.route_key, key) is None:
                found[f"route_key.{key}"] = "is not set, but route_key.source is metadata"
    if settings.policies.registry is not None and settings.policies.directory is not None:
        found["policies.directory"] = "is set together with policies.registry; only one of them can be"
    return found
