"""What an operator writes down: listeners, clusters, the engine and routes with their chains, as plain data.

A separate module because the reader makes it and the resource builders use it, and neither knows the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from policy_engine.worker.chains.error_answers import ErrorAnswers


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an upstream listens: `host` and `port`, or a Unix socket's `path`."""

    host: str = ""
    port: int = 0
    path: str = ""
    is_name: bool = False
    """Whether `host` has to be resolved by DNS."""


@dataclass(frozen=True, slots=True)
class ClusterModel:
    """A group of upstream hosts. Times are in seconds."""

    name: str
    endpoints: tuple[Endpoint, ...]
    connect_timeout: float = 1.0
    http2: bool = False
    health_checked: bool = False
    """Whether Envoy asks each host's gRPC health service before, and while, it sends requests there."""

    @property
    def resolved_by_envoy(self) -> bool:
        """Whether Envoy must look hosts up in DNS; all others get their endpoints over EDS."""
        return any(endpoint.is_name for endpoint in self.endpoints)


@dataclass(frozen=True, slots=True)
class ListenerModel:
    """An address on which Envoy accepts HTTP."""

    name: str
    address: str
    port: int


class MatchKind(StrEnum):
    """How a path or a header value is compared."""

    EXACT = "exact"
    PREFIX = "prefix"
    SEGMENTS = "path_separated_prefix"
    REGEX = "regex"
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """A condition on one request header; `value` is empty for PRESENT."""

    name: str
    kind: MatchKind
    value: str = ""


@dataclass(frozen=True, slots=True)
class RouteModel:
    """One route; `chain` is None without a chain and a list (as in a chain file) with one. Times are in seconds.

    `settings` are the other keys of a chain file's route that go with a chain. `errors` is how its chain's denials are
    written, None where that is left to the engines.
    """

    name: str
    path_kind: MatchKind
    path: str
    cluster: str
    headers: tuple[HeaderMatch, ...] = ()
    hosts: tuple[str, ...] = ()
    listeners: tuple[str, ...] = ()
    timeout: float = 15.0
    chain: tuple[Mapping[str, Any], ...] | None = field(default=None, repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)
    errors: ErrorAnswers | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Model:
    """Everything; references between the parts hold."""

    listeners: tuple[ListenerModel, ...] = ()
    clusters: tuple[ClusterModel, ...] = ()
    engine: ClusterModel | None = None
    routes: tuple[RouteModel, ...] = ()
