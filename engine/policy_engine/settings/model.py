"""Every runtime setting of the engine, typed, with its default, its meaning and how it is written (R-25).

Separate so that there is one list: the settings file, the environment variables, the flags, `config show`
and the sample file are all derived from these classes. Reading them from their sources is `loading`.
"""

# ruff: noqa: RUF009 - setting() makes a dataclass field, so nothing is shared between instances

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from policy_engine.kernel.route_key import RouteKey
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
    OFFLOAD_PROCESSES,
    OFFLOAD_WAITING,
    POLICY_TIMEOUT,
    STREAMS,
    TOP_ROUTES,
    WORKER_SECONDS,
)
from policy_engine.sdk.error_formats import ErrorFormat
from policy_engine.settings.forms import (
    ADDRESS,
    ADDRESSES,
    AUTO,
    BOOLEAN,
    COLLECTOR,
    FILE,
    FILES,
    HOSTS,
    LOG,
    LOOPBACK,
    METADATA_NAME,
    NAMES,
    OPTIONAL_ADDRESS,
    OPTIONAL_SIZE,
    OTLP,
    OUTPUT,
    PARTS,
    RATIO,
    SOCKET,
    TEXT,
    WORKERS,
    choice,
    duration,
    setting,
    size,
    whole_number,
)


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
    HTTPROUTE = "httproute"
    ANNOTATION = "annotation"
    ISTIO = "istio"
    ATTRIBUTE = "attribute"
    PARTS = "parts"


class UnmappedRoutes(StrEnum):
    """What happens to a route that is not in the configuration (R-07)."""

    DENY = "deny"
    PASS = "pass"  # noqa: S105 - the word of the settings file, not a password


class Verify(StrEnum):
    """What becomes of code that is not what the builder wrote the digests of (R-47)."""

    REPORT = "report"
    STRICT = "strict"


class MetricsDetail(StrEnum):
    """What metrics tell apart."""

    POLICY = "policy"
    ROUTE = "route"
    TOTAL = "total"


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    TEXT = "text"


class Decisions(StrEnum):
    """Which decisions the decision log has."""

    OFF = "off"
    DENIALS = "denials"
    ALL = "all"


class LogLevel(StrEnum):
    """From which severity on lines are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


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
        choice(Verify),
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
        choice(RouteKeySource),
        RouteKeySource.ROUTE_NAME,
        "what the key is: the route's name, a key of its filter metadata, its HTTPRoute and rule or an annotation of "
        "that (Envoy Gateway), its VirtualService and name (Istio), another attribute, or several of these",
    )
    namespace: str | None = setting(METADATA_NAME, None, "filter metadata namespace, when source is metadata")
    key: str | None = setting(
        METADATA_NAME, None, "key in that namespace, name of the annotation, or attribute, when that is the source"
    )
    parts: tuple[str, ...] = setting(
        PARTS,
        (),
        "what is joined by / when source is parts, of route_name, httproute, httproute.namespace, istio, "
        "annotation:NAME, metadata:NAMESPACE:KEY, attribute:EXPRESSION",
    )
    strict: bool = setting(
        BOOLEAN, False, "refuse chains whose key counts the position of a route, as names of Envoy Gateway's routes do"
    )


@dataclass(frozen=True, slots=True)
class ChainFileSettings:
    """When a chain file is taken for complete (R-20)."""

    settle: float = setting(
        duration(0, 600), FILE_SETTLE_SECONDS, "time a chain file that was not renamed into place must be left alone"
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
class UpgradeSettings:
    """Hand-over to another engine on the same machine (R-54)."""

    socket: Path | None = setting(
        SOCKET,
        None,
        "Unix socket at which `policy-engine upgrade` gets the listening sockets of the engine that runs; for its user "
        "alone",
    )


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """How much metrics tell apart (R-58)."""

    detail: MetricsDetail = setting(
        choice(MetricsDetail),
        MetricsDetail.POLICY,
        "what has counters of its own: each policy on each route, each route, or nothing but the whole",
    )
    top_routes: int = setting(
        whole_number(0, 100_000), TOP_ROUTES, "routes that are named, those with the most requests; others count as one"
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Log lines (R-52)."""

    level: LogLevel = setting(choice(LogLevel), LogLevel.INFO, "least severity that is logged")
    format: LogFormat = setting(choice(LogFormat), LogFormat.JSON, "form of log lines")


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """Spans for OpenTelemetry (R-52)."""

    endpoint: str | None = setting(
        COLLECTOR,
        None,
        "OTLP/HTTP collector that spans are sent to (its /v1/traces); off for no tracing",
    )
    sample_ratio: float = setting(
        RATIO,
        1.0,
        "share of the requests traced that come without a sampling decision in `traceparent`",
    )
    service_name: str = setting(TEXT, "policy-engine", "`service.name` of the spans")


@dataclass(frozen=True, slots=True)
class DecisionLogSettings:
    """The decision log: a line for each request that is denied or fails, and for others that are asked for."""

    decisions: Decisions = setting(
        choice(Decisions), Decisions.DENIALS, "decisions that are logged; denials are failures too"
    )
    output: str = setting(
        OUTPUT,
        LOG,
        "where they go: among log lines, to a file (opened anew when it was renamed), or to a collector",
    )
    endpoint: str | None = setting(COLLECTOR, None, "OTLP/HTTP collector (its /v1/logs), when output is otlp")
    sample_ratio: float = setting(RATIO, 1.0, "share of the requests that pass, when decisions is all")
    condition: str | None = setting(TEXT, None, "CEL condition for requests that pass, when decisions is all")


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What peers may make the engine hold (R-09, R-14)."""

    streams: int = setting(whole_number(1, 1_000_000), STREAMS, "streams open at once in one worker process")
    connections: int = setting(
        whole_number(1, 1_000_000),
        CONNECTIONS,
        "connections to one worker process; idle ones give way to new ones",
    )
    blocking_threads: int = setting(whole_number(1, 1024), BLOCKING_THREADS, "threads for each blocking policy version")
    offload_processes: int = setting(
        whole_number(1, 64), OFFLOAD_PROCESSES, "helper processes of one worker process, for work on large bodies"
    )
    offload_waiting: int = setting(
        whole_number(1, 100_000), OFFLOAD_WAITING, "calls that may wait for a helper process of one worker process"
    )
    header_count: int = setting(whole_number(1, 10_000), HEADER_COUNT, "headers of one request or response")
    header_size: int = setting(
        size(1024, LARGEST_HEADERS), HEADER_SIZE, "bytes of all headers of one request or response"
    )


@dataclass(frozen=True, slots=True)
class ErrorSettings:
    """What clients get on a denial, where the chain file does not say (R-19)."""

    format: ErrorFormat = setting(
        choice(ErrorFormat), ErrorFormat.PROBLEM, "format of a denial whose route and chain file name none"
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """Every runtime setting; durations are in seconds, sizes in bytes.

    `origins` says for each setting (`tls.cert`) where its value came from.
    """

    listen: tuple[str, ...] = setting(ADDRESSES, ("127.0.0.1:9002",), "addresses that serve ext_proc")
    transport: Transport = setting(choice(Transport), Transport.NATIVE, "server that carries ext_proc")
    workers: int | str = setting(WORKERS, AUTO, "worker processes")
    worker_timeout: float = setting(
        duration(0.5, 3600),
        WORKER_SECONDS,
        "time without a sign of life after which a worker process is killed and replaced",
    )
    configuration: ConfigurationSource = setting(
        choice(ConfigurationSource), ConfigurationSource.FILE, "where chains come from"
    )
    chains: Path = setting(FILE, Path("/etc/policy-engine/chains.yaml"), "chain file, or a directory of them")
    unmapped_routes: UnmappedRoutes = setting(
        choice(UnmappedRoutes), UnmappedRoutes.DENY, "what happens to a route that is not in the configuration"
    )
    body_limit: int = setting(size(0, 1 << 30), BODY_LIMIT, "largest body, also when decompressed")
    envoy_buffer_limit: int | None = setting(
        OPTIONAL_SIZE,
        None,
        "bytes Envoy holds of a body (per_connection_buffer_limit_bytes), if less than body_limit; larger ones are "
        "then refused by their content-length, before Envoy waits for what it has no room for; off if it is not less",
    )
    policy_timeout: float = setting(
        duration(0.001, LONGEST_POLICY_TIMEOUT), POLICY_TIMEOUT, "timeout of a policy whose chain entry has none"
    )
    construction_timeout: float = setting(
        duration(0.1, 600), CONSTRUCTION_SECONDS, "time a policy's constructor may take when chains are loaded"
    )
    drain_timeout: float = setting(duration(0, 3600), 30.0, "time for streams in flight to end after SIGTERM")
    tls: TlsSettings = field(default_factory=TlsSettings)
    policies: PolicySettings = field(default_factory=PolicySettings)
    xds: XdsSettings = field(default_factory=XdsSettings)
    route_key: RouteKeySettings = field(default_factory=RouteKeySettings)
    chain_files: ChainFileSettings = field(default_factory=ChainFileSettings)
    secrets: SecretSettings = field(default_factory=SecretSettings)
    admin: AdminSettings = field(default_factory=AdminSettings)
    health: HealthSettings = field(default_factory=HealthSettings)
    upgrade: UpgradeSettings = field(default_factory=UpgradeSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    log: LogSettings = field(default_factory=LogSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    decision_log: DecisionLogSettings = field(default_factory=DecisionLogSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    errors: ErrorSettings = field(default_factory=ErrorSettings)
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
    found |= _contradictions_of_route_key(settings.route_key)
    if settings.decision_log.output == OTLP and settings.decision_log.endpoint is None:
        found["decision_log.endpoint"] = "is not set, but decision_log.output is otlp"
    if settings.upgrade.socket is not None and settings.transport is Transport.GRPCIO:
        found["upgrade.socket"] = "is set, but transport is grpcio, which takes no sockets from another engine"
    if settings.policies.registry is not None and settings.policies.directory is not None:
        found["policies.directory"] = "is set together with policies.registry; only one of them can be"
    return found


_NEEDED_OF_ROUTE_KEY: Mapping[RouteKeySource, tuple[str, ...]] = {
    RouteKeySource.METADATA: ("namespace", "key"),
    RouteKeySource.ANNOTATION: ("key",),
    RouteKeySource.ATTRIBUTE: ("key",),
    RouteKeySource.PARTS: ("parts",),
}


def _contradictions_of_route_key(route_key: RouteKeySettings) -> dict[str, str]:
    """Return what does not go together in these, and what is no key."""
    found = {
        f"route_key.{name}": f"is not set, but route_key.source is {route_key.source}"
        for name in _NEEDED_OF_ROUTE_KEY.get(route_key.source, ())
        if not getattr(route_key, name)
    }
    chosen = [route_key.key or ""] if route_key.source is RouteKeySource.ATTRIBUTE else []
    chosen += [one.removeprefix("attribute:") for one in route_key.parts if one.startswith("attribute:")]
    for one in chosen:
        if one.startswith("request."):
            name = "parts" if route_key.parts else "key"
            found[f"route_key.{name}"] = f"holds {one}, by which a client would choose the chain of its request"
    if route_key.source is RouteKeySource.PARTS and not found:
        try:
            RouteKey(route_key.parts)
        except ValueError as error:
            found["route_key.parts"] = str(error)
    return found
