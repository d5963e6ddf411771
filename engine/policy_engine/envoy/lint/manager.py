"""Checks the HTTP connection manager in front of the filter: how requests are spelt, and what it upgrades.

A separate module because these findings are about what comes before any route is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator

from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.envoy.demands import Demands
from policy_engine.envoy.lint.proto_json import Node

_UNDERSCORES = {0: "ALLOW", 1: "REJECT_REQUEST", 2: "DROP_HEADER"}
_SLASHES = {
    0: "IMPLEMENTATION_SPECIFIC_DEFAULT",
    1: "KEEP_UNCHANGED",
    2: "REJECT_REQUEST",
    3: "UNESCAPE_AND_REDIRECT",
    4: "UNESCAPE_AND_FORWARD",
}


def lint_manager(manager: Node, demands: Demands) -> Iterator[Diagnostic]:
    """Yield what is wrong with one connection manager that has the filter."""
    yield from _spellings(manager)
    yield from _ports(manager)
    yield from _upgrades(manager, demands)


def _spellings(manager: Node) -> Iterator[Diagnostic]:
    for name, what in (
        ("normalize_path", "`/a/../b` and `/b` may be two routes with different policies"),
        ("merge_slashes", "`//a` and `/a` may be two routes with different policies"),
        ("strip_trailing_host_dot", "`api.example.com.` and `api.example.com` are two hosts to routes and policies"),
    ):
        node = manager.get(name)
        if not node.is_true():
            yield node.warning(Rule.ENVOY_SPELLING, f"{name} is not true: {what}", allowed="true")
    node = manager.get("path_with_escaped_slashes_action")
    if node.enum(_SLASHES, "KEEP_UNCHANGED") in ("KEEP_UNCHANGED", "IMPLEMENTATION_SPECIFIC_DEFAULT"):
        reason = "`/a%2Fb` and `/a/b` may be two routes with different policies"
        yield node.warning(Rule.ENVOY_SPELLING, reason, allowed="REJECT_REQUEST, UNESCAPE_AND_REDIRECT")
    node = manager.get("common_http_protocol_options", "headers_with_underscores_action")
    if node.enum(_UNDERSCORES, "ALLOW") == "ALLOW":
        reason = "`x_user` reaches the upstream beside the `x-user` that a policy sets; to many upstreams they are one"
        yield node.warning(Rule.ENVOY_SPELLING, reason, allowed="REJECT_REQUEST, DROP_HEADER")


def _ports(manager: Node) -> Iterator[Diagnostic]:
    configuration = manager.get("route_config")
    domains = [text for host in configuration.get("virtual_hosts").items() for text in host.get("domains").texts()]
    named = [domain for domain in domains if domain != "*"]
    one = configuration.get("ignore_port_in_host_matching").is_true() or manager.get("strip_any_host_port").is_true()
    if not named or one or manager.get("strip_matching_host_port").is_true():
        return
    reason = f"a request for `{named[0]}` with a port in its host is not for this virtual host"
    node = configuration.get("ignore_port_in_host_matching")
    yield node.warning(Rule.ENVOY_SPELLING, reason, allowed="true; or strip_any_host_port: true of the manager")


def _upgrades(manager: Node, demands: Demands) -> Iterator[Diagnostic]:
    """Yield a finding for upgrades that reach chains which need whole bodies: those of an upgrade do not end."""
    whole = [chain for chain in demands.chains.values() if chain.buffers]
    node = manager.get("upgrade_configs")
    if not whole or not list(node.items()):
        return
    some = ", ".join(repr(chain.route_key) for chain in whole[:3]) + (" and others" if len(whole) > 3 else "")
    reason = (
        f"upgrades have bodies without end, which the chains of {some} need whole: they are refused with 501, or pass "
        "unread where all policies of bodies fail open"
    )
    yield node.warning(Rule.ENVOY_UPGRADE, reason, allowed="upgrade_configs of the routes that have no such chain")
