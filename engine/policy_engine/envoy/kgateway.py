"""Writes the resources with which kgateway asks an engine: of one chain, as it sends no attribute to tell routes by.

A separate module because of that limit, which has to be said before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from policy_engine.envoy.demands import Demands
from policy_engine.envoy.filter_config import Config, duration
from policy_engine.envoy.manifests import NAME, Gateway, document, metadata, service_of

_API = "gateway.kgateway.dev/v1alpha1"
ANY_ROUTE = "*"


def kgateway(demands: Demands, gateway: Gateway, namespaces: Sequence[str], *, tls: bool) -> str:
    """Return the manifests; raises ValueError for what kgateway cannot do."""
    if set(demands.chains) != {ANY_ROUTE}:
        raise ValueError(
            "kgateway sends no attribute to an external processor, so that an engine cannot tell its routes apart: "
            f"write one chain, with the route_key {ANY_ROUTE!r}, and run an engine for each set of routes with another"
        )
    service = service_of(demands.addresses[0]) if len(demands.addresses) == 1 else None
    if service is None:
        raise ValueError("kgateway asks a Service: give --engine NAME.NAMESPACE.svc:PORT, once")
    chain = demands.chains[ANY_ROUTE]
    names = {field: _camel(field) for field in chain.modes}
    ref: Config = {"name": service.name, "port": service.port}
    if service.namespace != gateway.namespace:
        ref["namespace"] = service.namespace
    extension = {
        "apiVersion": _API,
        "kind": "GatewayExtension",
        "metadata": metadata(gateway.namespace),
        "spec": {
            "extProc": {
                "grpcService": {
                    "backendRef": ref,
                    "retry": {"attempts": 3, "backoff": {"baseInterval": "10ms", "maxInterval": "100ms"}},
                },
                "failOpen": False,
                "messageTimeout": duration(demands.message_timeout),
                "allowProcessingModeOverride": True,
                **_metadata(demands),
                "processingMode": {names[field]: value for field, value in chain.modes.items()},
            }
        },
    }
    policy = {
        "apiVersion": _API,
        "kind": "TrafficPolicy",
        "metadata": metadata(gateway.namespace),
        "spec": {
            "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": gateway.name}],
            "extProc": {"extensionRef": {"name": NAME}},
        },
    }
    header = [
        "The policy engine behind kgateway. Made by: policy-engine envoy-config --target kgateway",
        "What kgateway has no setting for:",
        "- request_attributes: the engine knows neither the route nor the client's address. All routes have one chain,",
        '  whose key is "*"; policies and conditions see no client address.',
        "- mutation_rules: changes of :method, :authority and :scheme are dropped without a word.",
        "- which failures are tried again, health checks and circuit breakers of the engine: see BackendConfigPolicy.",
        "- buffers of connections: see perConnectionBufferLimitBytes of its ListenerPolicy; engines should know it",
        f"  (envoy_buffer_limit) where it is less than {demands.buffer_limit} bytes.",
    ]
    asked = sorted(demands.asked.attributes)
    if asked:
        header.append(f"- the attributes that policies or conditions read: {', '.join(asked)}. They are missing.")
    if namespaces:
        header.append(f"- namespaces in which policies may write dynamic metadata ({', '.join(namespaces)}).")
    if tls:
        header.append(
            "- TLS towards the engine: see BackendTLSPolicy, or BackendConfigPolicy for a client certificate."
        )
    comments = {
        "failOpen": ("kgateway's default is true: an engine that cannot be reached would switch authentication off.",),
        "messageTimeout": ("Above the timeouts of the slowest chain's policies together (default 200 ms).",),
        "allowProcessingModeOverride": ("Lets the engine ask for the phases that its chain of this moment needs.",),
    }
    return "---\n".join((document(extension, comments, header), document(policy, {}, ())))


def _metadata(demands: Demands) -> Config:
    names = sorted(demands.asked.namespaces)
    return {"metadataOptions": {"forwarding": {"untyped": names}}} if names else {}


def _camel(field: str) -> str:
    first, *rest = field.split("_")
    return first + "".join(part.capitalize() for part in rest)
