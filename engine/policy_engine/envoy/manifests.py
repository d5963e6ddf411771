"""What manifests for Kubernetes have in common: names, the engine as a backend, and several documents in one text.

A separate module because each control plane has resources of its own, and all are written alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from policy_engine.envoy.bootstrap import render
from policy_engine.envoy.demands import ChainDemand, Demands
from policy_engine.envoy.filter_config import Config
from policy_engine.transport.listen import parse_address

NAME = "policy-engine"

_SERVICE = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc(\.[a-z0-9.-]+)?", re.ASCII)
_GATEWAY = re.compile(r"([a-z0-9-]+)/([a-z0-9.-]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Gateway:
    """The Gateway, or the workload, that Envoy runs for: `namespace/name`."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Gateway:
        """Return what `NAMESPACE/NAME` says; raises ValueError."""
        match = _GATEWAY.fullmatch(text)
        if match is None:
            raise ValueError(f"--gateway {text!r}: expected NAMESPACE/NAME")
        return cls(match[1], match[2])


@dataclass(frozen=True, slots=True)
class Service:
    """The engine as a Service of Kubernetes."""

    namespace: str
    name: str
    port: int


@dataclass(frozen=True, slots=True)
class Route:
    """The HTTPRoute, and its rule if it has a name, that a chain is for."""

    namespace: str
    name: str
    rule: str = ""


def service_of(address: str) -> Service | None:
    """Return the Service that `NAME.NAMESPACE.svc[.cluster.local]:PORT` is, None for an address of another kind."""
    parsed = parse_address(address)
    if isinstance(parsed, Path):
        return None
    match = _SERVICE.fullmatch(parsed[0])
    return Service(match[2], match[1], parsed[1]) if match else None


def route_of(chain: ChainDemand) -> Route | None:
    """Return the HTTPRoute in the key of a chain, as Envoy Gateway has it; None for a key of another kind."""
    kind, *names = chain.route_key.split("/")
    if kind != "httproute" or len(names) < 2 or any("*" in name for name in names):
        return None
    namespace, name, *rest = names
    # A rule of a positional name stands for the whole route: there is no section to speak of.
    return Route(namespace, name, rest[0] if len(rest) == 1 else "")


def metadata(namespace: str, suffix: str = "") -> Config:
    """Return the metadata of a manifest."""
    return {"name": f"{NAME}-{suffix}" if suffix else NAME, "namespace": namespace}


def by_modes(chains: Iterable[ChainDemand]) -> Mapping[tuple[tuple[str, str], ...], list[ChainDemand]]:
    """Return the chains in groups of those that need the same modes."""
    groups: dict[tuple[tuple[str, str], ...], list[ChainDemand]] = {}
    for chain in chains:
        groups.setdefault(tuple(sorted(chain.modes.items())), []).append(chain)
    return groups


def only(demands: Demands, chains: Iterable[ChainDemand]) -> Demands:
    """Return the demands of these chains alone."""
    return replace(demands, chains={one.route_key: one for one in chains})


def document(config: Config, comments: Mapping[str, Sequence[str]], header: Sequence[str]) -> str:
    """Return one manifest as YAML, with `header` above it and each comment above the first line with its key."""
    return render(config, header, comments)


def listed(keys: Sequence[str], most: int = 5) -> str:
    """Return keys for a comment, the first of many."""
    some = ", ".join(keys[:most])
    return some if len(keys) <= most else f"{some} and {len(keys) - most} more"
