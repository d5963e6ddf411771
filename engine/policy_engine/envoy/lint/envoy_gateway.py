"""What Envoy Gateway makes of an EnvoyExtensionPolicy: the filter and the cluster, each value at its place there.

A separate module because it is the one that knows Envoy Gateway's fields and defaults
(gateway.envoyproxy.io/v1alpha1, and its own documentation "External Processing").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.documents.yaml_document import Document
from policy_engine.envoy.lint.proto_json import Node

CONNECTION_BUFFER = 32 << 10
WINDOW = 64 << 10
"""Bytes; what Envoy Gateway sets unless a ClientTrafficPolicy says otherwise."""

_NAMES = 2
"""Namespace and name in a key, before that of the rule."""
_GATEWAY, _ROUTE, _RULE = 1, 2, 3

_BODIES = {
    "Streamed": "STREAMED",
    "Buffered": "BUFFERED",
    "BufferedPartial": "BUFFERED_PARTIAL",
    "FullDuplexStreamed": "FULL_DUPLEX_STREAMED",
}
_QUANTITY = re.compile(r"(\d{1,15})(Ki|Mi|Gi|k|K|M|G)?", re.ASCII)
_UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "k": 1000, "K": 1000, "M": 10**6, "G": 10**9}
_PATCH_PATH = "mutation_rules"

_HINTS: Mapping[Rule, str] = {
    Rule.ENVOY_TIMEOUT: "spec.extProc[].messageTimeout",
    Rule.ENVOY_OVERRIDE: "spec.extProc[].processingMode.allowModeOverride: true",
    Rule.ENVOY_ATTRIBUTE: "spec.extProc[].processingMode.request.attributes",
    Rule.ENVOY_RETRY: "backendSettings.retry.retryOn.triggers: connect-failure, refused-stream, reset-before-request",
    Rule.ENVOY_FAILURE_MODE: "spec.extProc[].failOpen: false",
    Rule.ENVOY_CIRCUIT_BREAKER: "spec.extProc[].backendSettings.circuitBreaker",
    Rule.ENVOY_BUFFER: "a ClientTrafficPolicy with connection.bufferLimit and http2.initialStreamWindowSize",
    Rule.ENVOY_MUTATION: "an EnvoyPatchPolicy that adds mutation_rules: {allow_all_routing: true}",
    Rule.ENVOY_MODE: "spec.extProc[].processingMode.request and .response; body: Buffered or FullDuplexStreamed",
}


def settable(finding: Diagnostic) -> str | None:
    """Return where Envoy Gateway has the setting of a finding, empty for nowhere, None if it cannot be wrong there."""
    if finding.rule in (Rule.ENVOY_HTTP2, Rule.ENVOY_IDLE):
        return None
    if finding.rule is Rule.ENVOY_MODE and "trailers" in finding.reason:
        return ""
    return _HINTS.get(finding.rule, "")


class ExtensionPolicy:
    """One policy with the manifests beside it, as the parts of Envoy's configuration that come of it."""

    def __init__(self, policy: Node, beside: Sequence[Node]) -> None:
        self._policy = policy
        self._patched = any(_patches_rules(one) for one in beside)
        traffic = next((one for one in beside if one.get("kind").text() == "ClientTrafficPolicy"), None)
        spec = traffic.at("spec") if traffic is not None else policy
        self.listener = _Writing(policy.document).node(
            {"per_connection_buffer_limit_bytes": _bytes(spec.at("connection").at("bufferLimit"))}, policy
        )
        window = _bytes(spec.at("http2").at("initialStreamWindowSize"))
        self.manager = _Writing(policy.document).node(
            {"http2_protocol_options": {"initial_stream_window_size": window}}, policy
        )

    def closeness(self, route_key: str) -> int:
        """Return how closely the policy is for a chain's route, 0 for not at all; the closest one holds there.

        A Gateway's is for all, and every policy for a chain whose key does not say of which HTTPRoute it is.
        """
        kind, *names = route_key.split("/")
        targets = [*self._policy.at("spec").at("targetRefs").items(), self._policy.at("spec").at("targetRef")]
        if kind != "httproute" or len(names) < _NAMES or not any(target.exists for target in targets):
            return _GATEWAY
        return max(self._closeness(target, names) for target in targets)

    def _closeness(self, target: Node, names: Sequence[str]) -> int:
        if target.at("kind").text() == "Gateway":
            return _GATEWAY
        namespace = self._policy.at("metadata").at("namespace").text() or "default"
        if [namespace, target.at("name").text()] != list(names[:_NAMES]):
            return 0
        section = target.at("sectionName").text()
        if not section:
            return _ROUTE
        return _RULE if list(names[_NAMES:]) == [section] else 0

    def processors(self) -> Iterator[tuple[Node, Node]]:
        """Yield filter and cluster of each processor."""
        for processor in self._policy.at("spec").at("extProc").items():
            writing = _Writing(self._policy.document)
            yield writing.node(self._filter(processor), processor), writing.node(_cluster(processor), processor)

    def _filter(self, processor: Node) -> dict[str, Any]:
        mode = processor.at("processingMode")
        triggers = processor.at("backendSettings").at("retry").at("retryOn").at("triggers")
        config: dict[str, Any] = {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            "message_timeout": processor.at("messageTimeout"),
            "failure_mode_allow": processor.at("failOpen"),
            "allow_mode_override": mode.at("allowModeOverride"),
            "request_attributes": mode.at("request").at("attributes"),
            "response_attributes": mode.at("response").at("attributes"),
            "processing_mode": (mode, _mode(mode)),
            "metadata_options": {
                "forwarding_namespaces": {"untyped": processor.at("metadata").at("accessibleNamespaces")}
            },
            "grpc_service": {"retry_policy": {"retry_on": (triggers, ",".join(triggers.texts()))}},
        }
        if self._patched:
            config["mutation_rules"] = {"allow_all_routing": (processor, True)}
        return {"name": "envoy.filters.http.ext_proc", "typed_config": config}


def _mode(mode: Node) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for side in ("request", "response"):
        node = mode.at(side)
        body = _BODIES.get(node.at("body").text(), "NONE")
        found[f"{side}_header_mode"] = (node if node.exists else mode, "SEND" if node.exists else "SKIP")
        found[f"{side}_body_mode"] = (node.at("body") if node.at("body").exists else node, body)
        found[f"{side}_trailer_mode"] = (node, "SEND" if body == "FULL_DUPLEX_STREAMED" else "SKIP")
    return found


def _cluster(processor: Node) -> dict[str, Any]:
    breaker = processor.at("backendSettings").at("circuitBreaker")
    names = {
        "max_connections": "maxConnections",
        "max_pending_requests": "maxPendingRequests",
        "max_requests": "maxParallelRequests",
    }
    thresholds = {ours: breaker.at(theirs) for ours, theirs in names.items()}
    # That the cluster speaks HTTP/2 and TLS is Envoy Gateway's own business and that of a BackendTLSPolicy.
    return {
        "name": "engine",
        "http2_protocol_options": {
            "max_outbound_frames": (processor, 1 << 30),
            "max_outbound_control_frames": (processor, 1 << 30),
        },
        "transport_socket": (processor, "TLS"),
        "circuit_breakers": {"thresholds": [thresholds]},
    }


def _patches_rules(resource: Node) -> bool:
    """Return whether a manifest is an EnvoyPatchPolicy that lets policies change method and authority."""
    if resource.get("kind").text() != "EnvoyPatchPolicy":
        return False
    operations = (patch.at("operation") for patch in resource.at("spec").at("jsonPatches").items())
    return any(
        one.at("path").text().strip("/").endswith(_PATCH_PATH) and one.at("value").at("allow_all_routing").is_true()
        for one in operations
    )


def _bytes(node: Node) -> Any:
    match = _QUANTITY.fullmatch(str(node.value)) if node.exists else None
    return (node, int(match[1]) * _UNITS[match[2] or ""]) if match else node


class _Writing:
    """Writes a document of Envoy whose values have their places in another one."""

    def __init__(self, source: Document) -> None:
        self._source = source

    def node(self, tree: Any, place: Node) -> Node:
        """Return `tree` as a document; its leaves are nodes, texts, or pairs of a node and the value it stands for."""
        value, mark = self._made(tree, place)
        return Node(Document(self._source.file, value, mark), (), value)

    def _made(self, tree: Any, place: Node) -> tuple[Any, Any]:
        if isinstance(tree, dict):
            made = {name: self._made(inner, place) for name, inner in tree.items()}
            made = {name: one for name, one in made.items() if one[0] is not None}
            line, column, _ = self._mark(place)
            children = {name: (*mark[:2], mark) for name, (_, mark) in made.items()}
            return {name: one for name, (one, _) in made.items()}, (line, column, children)
        if isinstance(tree, list):
            made_items = [self._made(inner, place) for inner in tree]
            line, column, _ = self._mark(place)
            return [one for one, _ in made_items], (line, column, [mark for _, mark in made_items])
        if isinstance(tree, tuple):
            node, value = tree
            return self._made(value, node if node.exists else place)
        if isinstance(tree, Node):
            return tree.value, self._mark(tree)
        return tree, self._mark(place)

    @staticmethod
    def _mark(node: Node) -> Any:
        place = node.document.locate(node.path)
        return (place.line - 1, place.column - 1, None) if place is not None else (0, 0, None)
