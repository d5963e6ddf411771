"""Named, versioned resources and the sets of them that clients are to have, by xDS type.

A separate module because everything in the control plane speaks it: what makes resources, what orders them, and what
sends them. A version is a hash of content, so that replicas side by side, and one replica after a restart, agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from policy_engine.sources.xds import chain as xds_chain

_ENVOY: Final = "type.googleapis.com/envoy.config"

CHAIN: Final = xds_chain.TYPE_URL
CLUSTER: Final = f"{_ENVOY}.cluster.v3.Cluster"
ENDPOINTS: Final = f"{_ENVOY}.endpoint.v3.ClusterLoadAssignment"
LISTENER: Final = f"{_ENVOY}.listener.v3.Listener"
ROUTES: Final = f"{_ENVOY}.route.v3.RouteConfiguration"

SHORT_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {CHAIN: "chains", CLUSTER: "clusters", ENDPOINTS: "endpoints", LISTENER: "listeners", ROUTES: "routes"}
)
"""What people call the types, for status pages."""

_HASH_LENGTH: Final = 16


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource; `body` is its serialised message."""

    name: str
    version: str
    body: bytes = field(repr=False)


Resources = Mapping[str, Resource]
"""Resources of one type by name."""

Snapshot = Mapping[str, Resources]
"""Resources by type URL."""

NOTHING: Final[Resources] = MappingProxyType({})


def resource(name: str, body: bytes) -> Resource:
    """Return a resource whose version is the hash of its bytes."""
    return Resource(name, hashlib.sha256(body).hexdigest()[:_HASH_LENGTH], body)


def by_name(resources: Iterable[Resource]) -> Resources:
    """Return `resources` by name, in the order of names."""
    return MappingProxyType({one.name: one for one in sorted(resources, key=lambda one: one.name)})


def version_of(resources: Resources) -> str:
    """Return the version of a set: the same for the same names and contents, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(resources):
        digest.update(f"{len(name)}:{name}{resources[name].version};".encode())
    return digest.hexdigest()[:_HASH_LENGTH]


def snapshot_version(snapshot: Snapshot) -> str:
    """Return the version of everything together."""
    digest = hashlib.sha256()
    for type_url in sorted(snapshot):
        digest.update(f"{type_url}={version_of(snapshot[type_url])};".encode())
    return digest.hexdigest()[:_HASH_LENGTH]
