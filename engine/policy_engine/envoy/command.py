"""What `policy-engine envoy-config` does with its options: read the chains, then write or lint.

A separate module so that the command line stays a list of commands.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from policy_engine.documents.diagnostics import Diagnostic, ordered
from policy_engine.envoy.bootstrap import Sample, bootstrap, render
from policy_engine.envoy.demands import Demands, demands_of
from policy_engine.envoy.envoy_gateway import envoy_gateway
from policy_engine.envoy.filter_config import EngineTls, fragments
from policy_engine.envoy.istio import istio
from policy_engine.envoy.kgateway import kgateway
from policy_engine.envoy.lint.lint import lint_file
from policy_engine.envoy.manifests import Gateway
from policy_engine.kernel.route_key import BY_NAME
from policy_engine.settings.model import Settings
from policy_engine.sources.chain_file import load_chain_paths
from policy_engine.sources.validate import chain_reader
from policy_engine.worker.policies.registry import Registry

_GATEWAY = "default/eg"
_ISTIO_GATEWAY = "istio-system/ingressgateway"


class Target(StrEnum):
    """For whom configuration is written."""

    BOOTSTRAP = "bootstrap"
    FILTER = "filter"
    ENVOY_GATEWAY = "envoy-gateway"
    ISTIO = "istio"
    KGATEWAY = "kgateway"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The configuration written, or what was found; `text` is empty when something was only checked."""

    text: str = ""
    diagnostics: Sequence[Diagnostic] = ()


def envoy_config(settings: Settings, registry: Registry, options: argparse.Namespace) -> Outcome:
    """Do what the options ask; raises ValueError for options that cannot be used."""
    loaded = load_chain_paths(
        (settings.chains,), chain_reader(registry, settings), end_marker=settings.chain_files.end_marker
    )
    if loaded.chains is None:
        return Outcome(diagnostics=loaded.diagnostics)
    demands = demands_of(settings, loaded.chains, registry)
    if options.lint is not None:
        return Outcome(diagnostics=ordered((*loaded.diagnostics, *lint_file(options.lint, demands, options.ignore))))
    if options.engine:
        demands = replace(demands, addresses=tuple(options.engine))
    return Outcome(_written(demands, _tls(demands, options), options))


def _written(demands: Demands, tls: EngineTls | None, options: argparse.Namespace) -> str:
    namespaces = options.metadata_namespace
    target = Target(options.target or (Target.BOOTSTRAP if options.bootstrap else Target.FILTER))
    if target is Target.ISTIO:
        return istio(demands, Gateway.parse(options.gateway or _ISTIO_GATEWAY), tls, namespaces)
    if target is Target.ENVOY_GATEWAY:
        gateway = Gateway.parse(options.gateway or _GATEWAY)
        return envoy_gateway(demands, gateway, options.listener, tls, namespaces)
    if target is Target.KGATEWAY:
        return kgateway(demands, Gateway.parse(options.gateway or _GATEWAY), namespaces, tls=tls is not None)
    return _plain(demands, tls, options, whole=target is Target.BOOTSTRAP)


def _plain(demands: Demands, tls: EngineTls | None, options: argparse.Namespace, *, whole: bool) -> str:
    namespaces = options.metadata_namespace
    if whole and demands.route_key.metadata is None and demands.route_key.parts != BY_NAME:
        parts = ", ".join(demands.route_key.parts)
        raise ValueError(
            f"a bootstrap of our own has routes by name or by filter metadata, and route_key is of {parts}: "
            "choose another --target, or route_key.source route_name or metadata"
        )
    header: tuple[str, ...]
    if not whole:
        header = (
            "Parts for an Envoy configuration, each under the name of the field it goes to: the first of a listener,",
            "`http_filters` before the router's, `routes` to the routes with these names. Made by:",
            "policy-engine envoy-config",
        )
        return render(fragments(demands, tls, namespaces), header)
    sample = Sample(ingress=options.ingress, upstream=options.upstream, admin=options.envoy_admin)
    header = (
        "Envoy in front of one upstream, with the policy engine. The name of a route is the `route_key` of its chain;",
        "the paths are examples. docs/envoy.md explains the settings. Made by:",
        f"policy-engine envoy-config --bootstrap --upstream {shlex.quote(sample.upstream)}",
        "Check a change of it with `policy-engine envoy-config --lint` and with `envoy --mode validate -c`.",
    )
    return render(bootstrap(demands, sample, tls, namespaces), header)


def _tls(demands: Demands, options: argparse.Namespace) -> EngineTls | None:
    if (options.engine_client_cert is None) != (options.engine_client_key is None):
        raise ValueError("--engine-client-cert and --engine-client-key go together; give both")
    if options.engine_ca is not None:
        return EngineTls(options.engine_ca, options.engine_name, options.engine_client_cert, options.engine_client_key)
    if demands.tls:
        raise ValueError("the engine serves TLS (tls.cert is set): give --engine-ca, the CA file as Envoy sees it")
    if options.engine_client_cert is not None or options.engine_name is not None:
        raise ValueError("--engine-client-cert and --engine-name need --engine-ca")
    return None
