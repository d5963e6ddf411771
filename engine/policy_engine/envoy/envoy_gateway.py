"""Writes the resources with which Envoy Gateway puts the engine in front of routes, grouped by the modes they need.

A separate module because Envoy Gateway has settings of its own for what a filter needs, and none for some of it: what
cannot be said is written above the manifests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policy_engine.envoy.demands import ChainDemand, Demands
from policy_engine.envoy.filter_config import MANY, TYPE, Config, EngineTls, duration
from policy_engine.envoy.manifests import (
    NAME,
    Gateway,
    Route,
    Service,
    by_modes,
    document,
    listed,
    metadata,
    only,
    route_of,
    service_of,
)
from policy_engine.kernel.origin import RESPONSE_DETAILS
from policy_engine.kernel.route_key import ROUTE_METADATA, ROUTE_NAME
from policy_engine.limits import ENVOY_STREAMS_PER_CONNECTION
from policy_engine.transport.listen import parse_address

_API: Final = "gateway.envoyproxy.io/v1alpha1"
_GATEWAY_API: Final = "gateway.networking.k8s.io"
_BODIES: Final = {"BUFFERED": "Buffered", "FULL_DUPLEX_STREAMED": "FullDuplexStreamed"}
_ATTRIBUTE: Final = re.compile(
    r"(connection\.|source\.|destination\.|request\.|response\.|upstream\.|xds\.route_)[a-z_1-9]*"
)
"""What its custom resource takes."""

_EXTENSION_COMMENTS: Final[Mapping[str, Sequence[str]]] = {
    "messageTimeout": ("Above the timeouts of the slowest chain's policies together (default 200ms).",),
    "failOpen": ("An engine that cannot be reached must not switch authentication off.",),
    "allowModeOverride": ("Lets the engine ask for the phases that its chains of this moment need.",),
    "attributes": ("The engine finds the chain by those of the route; policies read the others.",),
    "retry": ("Another engine is asked when one restarts or is gone and cannot have seen the request.",),
    "circuitBreaker": ("Envoy's own defaults of 1,024 would be the limit on requests in flight.",),
    "healthCheck": ("An engine that drains, or has no configuration yet, gets no new requests.",),
    "writableNamespaces": ("Namespaces in which policies may write dynamic metadata.",),
}


@dataclass(frozen=True, slots=True)
class _Writer:
    """What every manifest needs to know."""

    demands: Demands
    gateway: Gateway
    listener: str
    namespaces: Sequence[str]
    service: Service | None

    def texts(self, tls: EngineTls | None) -> list[str]:
        targeted, others = self._targeted()
        texts = [self._backend()] if self.service is None else []
        texts.append(self._extension(self._for_gateway(others), [self._gateway_ref()], others))
        everywhere = self._mode(self._for_gateway(others))
        groups = by_modes(chain for chain in targeted if chain.runs and self._mode(chain.modes) != everywhere)
        for number, chains in enumerate(groups.values(), 1):
            routes = [(route_of(chain), chain) for chain in chains]
            for namespace in sorted({route.namespace for route, _ in routes if route is not None}):
                here = [(route, chain) for route, chain in routes if route is not None and route.namespace == namespace]
                refs = [_route_ref(route) for route, _ in here]
                unique = list({str(ref): ref for ref in refs}.values())
                mine = [chain for _, chain in here]
                texts.append(self._extension(dict(mine[0].modes), unique, mine, namespace, str(number)))
        if any(chain.buffers for chain in self.demands.chains.values()):
            texts.append(self._client_traffic())
        if any(chain.acts_on_request for chain in self.demands.chains.values()):
            texts.append(self._patch())
        texts += self._grants([chain for chains in groups.values() for chain in chains])
        if tls is not None:
            texts.append(self._tls(tls))
        return texts

    def _targeted(self) -> tuple[list[ChainDemand], list[ChainDemand]]:
        """Return the chains whose key names an HTTPRoute, and the others."""
        chains = list(self.demands.chains.values())
        return [one for one in chains if route_of(one)], [one for one in chains if not route_of(one)]

    def _for_gateway(self, chains: Sequence[ChainDemand]) -> dict[str, str]:
        """Return modes for all these chains: what any of them reads is sent, and whole."""
        found: dict[str, str] = {}
        for side in ("request", "response"):
            reads = any(chain.modes[f"{side}_body_mode"] != "NONE" for chain in chains)
            found[f"{side}_body_mode"] = "BUFFERED" if reads else "NONE"
            found[f"{side}_header_mode"] = "SKIP"
        if any(chain.modes["response_header_mode"] == "SEND" for chain in chains):
            found["response_header_mode"] = "SEND"
        return found

    def _gateway_ref(self) -> Config:
        return {"group": _GATEWAY_API, "kind": "Gateway", "name": self.gateway.name}

    def _backend_ref(self, namespace: str) -> Config:
        service = self.service
        if service is None:
            ref: Config = {"group": "gateway.envoyproxy.io", "kind": "Backend", "name": NAME}
            return ref if namespace == self.gateway.namespace else ref | {"namespace": self.gateway.namespace}
        ref = {"name": service.name, "port": service.port}
        return ref if namespace == service.namespace else ref | {"namespace": service.namespace}

    def _backend(self) -> str:
        endpoints: list[Config] = []
        for address in self.demands.addresses:
            parsed = parse_address(address)
            if isinstance(parsed, Path):
                endpoints.append({"unix": {"path": str(parsed)}})
            elif parsed[0].replace(".", "").isdigit() or ":" in parsed[0]:
                endpoints.append({"ip": {"address": parsed[0], "port": parsed[1]}})
            else:
                endpoints.append({"fqdn": {"hostname": parsed[0], "port": parsed[1]}})
        manifest = {
            "apiVersion": _API,
            "kind": "Backend",
            "metadata": metadata(self.gateway.namespace),
            "spec": {"endpoints": endpoints, "appProtocols": ["gateway.envoyproxy.io/h2c"]},
        }
        header = (
            "The engine. Backends have to be allowed: `extensionApis: {enableBackend: true}` in the EnvoyGateway",
            "configuration. An engine that is a Service (--engine NAME.NAMESPACE.svc:PORT) needs none.",
        )
        return document(manifest, {}, header)

    def _extension(
        self,
        modes: Mapping[str, str],
        targets: Sequence[Config],
        chains: Sequence[ChainDemand],
        namespace: str = "",
        suffix: str = "",
    ) -> str:
        namespace = namespace or self.gateway.namespace
        # The Gateway's serves what gets a chain later, too.
        demands = only(self.demands, chains) if suffix else self.demands
        processor: Config = {
            "backendRefs": [self._backend_ref(namespace)],
            "messageTimeout": _milliseconds(demands.message_timeout),
            "failOpen": False,
            "processingMode": self._mode(modes),
            "backendSettings": _backend_settings(),
        }
        named = {"accessibleNamespaces": sorted(demands.asked.namespaces), "writableNamespaces": [*self.namespaces]}
        if any(named.values()):
            processor["metadata"] = {name: found for name, found in named.items() if found}
        manifest = {
            "apiVersion": _API,
            "kind": "EnvoyExtensionPolicy",
            "metadata": metadata(namespace, suffix),
            "spec": {"targetRefs": list(targets), "extProc": [processor]},
        }
        header = _reasons(modes, chains) if suffix else self._gateway_reasons(chains)
        return document(manifest, _EXTENSION_COMMENTS, header)

    def _mode(self, modes: Mapping[str, str]) -> Config:
        request: Config = {"attributes": attributes(self.demands)}
        response: Config = {}
        for side, config in (("request", request), ("response", response)):
            body = _BODIES.get(modes[f"{side}_body_mode"])
            if body is not None:
                config["body"] = body
        found: Config = {"allowModeOverride": True, "request": request}
        if response or modes["response_header_mode"] == "SEND":
            found["response"] = {"attributes": [RESPONSE_DETAILS], **response}
        return found

    @staticmethod
    def _gateway_reasons(chains: Sequence[ChainDemand]) -> list[str]:
        lines = [
            "Every route of the Gateway asks the engine: a route without a chain is denied, and a rule put in front of",
            "others opens nothing. Policies of HTTPRoutes below replace this one on their routes.",
        ]
        streams = [one.route_key for one in chains if "FULL_DUPLEX_STREAMED" in one.modes.values()]
        if streams:
            lines.append(f"These could stream, and are buffered here: {listed(streams)}. Their key names no HTTPRoute.")
        return lines

    def _client_traffic(self) -> str:
        limit = _kibibytes(self.demands.buffer_limit)
        manifest = {
            "apiVersion": _API,
            "kind": "ClientTrafficPolicy",
            "metadata": metadata(self.gateway.namespace),
            "spec": {
                "targetRefs": [self._gateway_ref()],
                "connection": {"bufferLimit": limit},
                "http2": {
                    "initialStreamWindowSize": limit,
                    "initialConnectionWindowSize": _kibibytes(max(1 << 20, self.demands.buffer_limit)),
                },
                "path": {"escapedSlashesAction": "RejectRequest"},
                "headers": {"withUnderscoresAction": "RejectRequest", "host": {"stripTrailingHostDot": True}},
            },
        }
        header = (
            "Bodies that are buffered: Envoy Gateway's own limit is 32 KiB, above which a body by override hangs. A",
            "Gateway has one such policy: put these fields into yours if there is one.",
        )
        comments = {
            "bufferLimit": ("Above the engine's body_limit, so that the engine is what refuses.",),
            "initialStreamWindowSize": ("What Envoy holds of a request over HTTP/2.",),
            "path": ("One spelling of paths and headers, or two routes lead to one place.",),
        }
        return document(manifest, comments, header)

    def _patch(self) -> str:
        gateway = self.gateway
        kind = f"{TYPE}.extensions.filters.http.ext_proc.v3.ExternalProcessor"
        operation = {
            "op": "add",
            "jsonPath": f"..http_filters[?(@.typed_config['@type']=='{kind}')].typed_config",
            "path": "mutation_rules",
            "value": {"allow_all_routing": True},
        }
        manifest = {
            "apiVersion": _API,
            "kind": "EnvoyPatchPolicy",
            "metadata": metadata(gateway.namespace),
            "spec": {
                "targetRef": self._gateway_ref(),
                "type": "JSONPatch",
                "jsonPatches": [
                    {
                        "type": f"{TYPE}.config.listener.v3.Listener",
                        "name": f"{gateway.namespace}/{gateway.name}/{self.listener}",
                        "operation": operation,
                    }
                ],
            },
        }
        acting = [one.route_key for one in self.demands.chains.values() if one.acts_on_request]
        header = (
            "Only for policies that write :method, :authority or :scheme, which Envoy would drop without a word;",
            f"it can be left out if none of these does: {listed(acting, 3)}.",
            "Patches have to be allowed: `extensionApis: {enableEnvoyPatchPolicy: true}`. One for each listener.",
        )
        return document(manifest, {}, header)

    def _grants(self, targeted: Sequence[ChainDemand]) -> list[str]:
        engine = self.service.namespace if self.service is not None else self.gateway.namespace
        routes = (route_of(chain) for chain in targeted)
        others = {route.namespace for route in routes if route is not None} | {self.gateway.namespace}
        others.discard(engine)
        if not others:
            return []
        group, kind = ("", "Service") if self.service else ("gateway.envoyproxy.io", "Backend")
        manifest = {
            "apiVersion": f"{_GATEWAY_API}/v1beta1",
            "kind": "ReferenceGrant",
            "metadata": metadata(engine),
            "spec": {
                "from": [
                    {"group": "gateway.envoyproxy.io", "kind": "EnvoyExtensionPolicy", "namespace": namespace}
                    for namespace in sorted(others)
                ],
                "to": [{"group": group, "kind": kind}],
            },
        }
        return [document(manifest, {}, ("Lets policies of other namespaces name the engine.",))]

    def _tls(self, tls: EngineTls) -> str:
        service = self.service
        target = (
            {"group": "", "kind": "Service", "name": service.name}
            if service is not None
            else {"group": "gateway.envoyproxy.io", "kind": "Backend", "name": NAME}
        )
        manifest = {
            "apiVersion": f"{_GATEWAY_API}/v1",
            "kind": "BackendTLSPolicy",
            "metadata": metadata(service.namespace if service is not None else self.gateway.namespace),
            "spec": {
                "targetRefs": [target],
                "validation": {
                    "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": f"{NAME}-ca"}],
                    "hostname": tls.name or (service.name if service is not None else NAME),
                },
            },
        }
        header = [f"TLS towards the engine. The ConfigMap {NAME}-ca holds the CA of {tls.ca} under the key ca.crt."]
        if tls.cert is not None:
            header += [
                "Envoy's own certificate cannot be set here: `backendTLS.clientCertificateRef` of the EnvoyProxy",
                "resource names a Secret with it.",
            ]
        return document(manifest, {}, header)


def envoy_gateway(
    demands: Demands, gateway: Gateway, listener: str, tls: EngineTls | None, namespaces: Sequence[str]
) -> str:
    """Return the manifests; raises ValueError for a route key that Envoy Gateway cannot send."""
    services = [service_of(one) for one in demands.addresses]
    service = services[0] if len(services) == 1 else None
    attributes(demands)
    writer = _Writer(demands, gateway, listener, namespaces, service)
    return _header(demands) + "---\n".join(writer.texts(tls))


def attributes(demands: Demands) -> list[str]:
    """Return the attributes to ask for; raises ValueError for one that Envoy Gateway does not take."""
    found = []
    for one in demands.request_attributes:
        # An expression into the metadata is none that may be written here; all of the metadata may.
        name = ROUTE_METADATA if one.startswith(f"{ROUTE_METADATA}.") else one
        if not _ATTRIBUTE.fullmatch(name):
            reader = "route_key" if one in demands.route_key.attributes else "policies or conditions"
            raise ValueError(f"Envoy Gateway does not send the attribute {one!r}, which {reader} need")
        found.append(name)
    # The name besides: without one, a request has no route, and gets 404.
    return list(dict.fromkeys([*found, ROUTE_NAME]))


def _header(demands: Demands) -> str:
    lines = [
        "The policy engine behind Envoy Gateway. Made by: policy-engine envoy-config --target envoy-gateway",
        "Apply it again when a change of the chains alters which bodies are read or how long policies may take.",
        "What Envoy Gateway has no setting for:",
        "- mutation_rules: see the EnvoyPatchPolicy, if there is one below.",
        "- limits on frames of the connection to the engine (max_outbound_frames): at most some thousand requests are",
        "  in flight on one connection before Envoy's flood protection ends it; more endpoints help.",
        "- trailers beside buffered bodies: a message of headers and trailers alone is asked for by override.",
        "- the filter's modes by route other than by a policy for each group of HTTPRoutes.",
    ]
    if demands.route_key.parts == ("route_name",):
        lines += [
            "Names of routes count positions here (httproute/NS/NAME/rule/0/match/0/host): a rule inserted in front",
            "gives its chain to another route. Set route_key.source: httproute (httproute/NS/NAME/RULE) or annotation.",
        ]
    return "".join(f"# {line}\n" for line in lines)


def _reasons(modes: Mapping[str, str], chains: Sequence[ChainDemand]) -> list[str]:
    lines = [f"For {listed([one.route_key for one in chains])}."]
    if "FULL_DUPLEX_STREAMED" in modes.values():
        lines += [
            "Streams: Envoy takes no override then, so that modes are what stands here. A chain that no longer streams",
            "still works, as the engine puts bodies together; apply this anew all the same.",
        ]
    return lines


def _route_ref(route: Route) -> Config:
    ref = {"group": _GATEWAY_API, "kind": "HTTPRoute", "name": route.name}
    return ref | ({"sectionName": route.rule} if route.rule else {})


def _backend_settings() -> Config:
    return {
        "retry": {
            "numRetries": 3,
            "retryOn": {"triggers": ["connect-failure", "refused-stream", "reset-before-request"]},
            "perRetry": {"backOff": {"baseInterval": "10ms", "maxInterval": "100ms"}},
        },
        "circuitBreaker": {
            "maxConnections": MANY,
            "maxPendingRequests": MANY,
            "maxParallelRequests": MANY,
            "maxParallelRetries": MANY,
        },
        "healthCheck": {
            "panicThreshold": 0,
            "active": {
                "type": "GRPC",
                "timeout": "1s",
                "interval": "1s",
                "unhealthyThreshold": 2,
                "healthyThreshold": 1,
                "grpc": {},
            },
        },
        "http2": {"maxConcurrentStreams": ENVOY_STREAMS_PER_CONNECTION},
    }


def _milliseconds(seconds: float) -> str:
    """Return a duration of Gateway API, which has no fractions."""
    whole = duration(seconds)
    return whole if "." not in whole else f"{round(seconds * 1000)}ms"


def _kibibytes(size: int) -> str:
    return f"{-(-size // 1024)}Ki"
