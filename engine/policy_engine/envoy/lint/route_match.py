"""Finds the route that Envoy would take for a request, in a configuration with its routes in it.

A separate module because it reads matches, which no check of the lint does. By route_components.proto of Envoy 1.36.
What it cannot know (run-time fractions, TLS and metadata of the connection) is taken to match, and said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import re2

from policy_engine.documents.diagnostics import render_text
from policy_engine.documents.yaml_document import read_document_file
from policy_engine.envoy.lint.modes import effective_modes
from policy_engine.envoy.lint.per_route import PerRoute
from policy_engine.envoy.lint.proto_json import Node
from policy_engine.envoy.lint.resources import resources_of
from policy_engine.envoy.lint.routes import key_of
from policy_engine.kernel.route_key import RouteKey
from policy_engine.sdk import Request

_UNKNOWABLE = ("runtime_fraction", "tls_context", "dynamic_metadata", "filter_state", "grpc")


class NoRoute(ValueError):
    """The file has no route for the request, or cannot tell; the message says why."""


@dataclass(frozen=True, slots=True)
class MatchedRoute:
    """The route of a request: its key, the modes that Envoy's configuration has for it, and what is not certain.

    `off` tells that the filter does not run there; `overrides` whether Envoy takes the modes the engine asks for.
    """

    key: str
    place: str
    modes: dict[str, str]
    overrides: bool
    off: bool
    notes: list[str] = field(default_factory=list)


def find_route(path: Path, request: Request, place: RouteKey) -> MatchedRoute:
    """Return the route of `request` in the Envoy configuration at `path`; raises NoRoute."""
    document, found = read_document_file(path)
    if document is None:
        raise NoRoute(render_text(found).rstrip())
    managers = [found for one in resources_of(document) for found in one.managers_with_filter()]
    if not managers:
        raise NoRoute(f"{path}: no listener has the ext_proc filter; give the route's key with --route")
    notes: list[str] = []
    discovered = False
    for _, manager, http_filter in managers:
        configuration = manager.get("route_config")
        discovered = discovered or not configuration.exists
        host = _virtual_host(manager, configuration, request)
        if host is None:
            continue
        for route in host.get("routes").items():
            if _matches(route.get("match"), request, notes):
                return _matched(route, (route, host, configuration), http_filter, place, notes)
    reason = f"no route of {path} is for {request.method} {request.authority}{request.path}"
    if discovered:
        reason += "; some of its routes are discovered (RDS) and not in the file: give the route's key with --route"
    raise NoRoute(reason)


def _matched(
    route: Node, levels: tuple[Node, ...], http_filter: Node, place: RouteKey, notes: list[str]
) -> MatchedRoute:
    per_route = PerRoute(http_filter, levels)
    key, _ = key_of(route, place)
    where = route.document.locate(route.path)
    line = f":{where.line}" if where else ""
    modes = dict(effective_modes(per_route.modes()))
    return MatchedRoute(
        key or "", f"{route.document.file}{line}", modes, per_route.may_override, per_route.off is not None, notes
    )


def _virtual_host(manager: Node, configuration: Node, request: Request) -> Node | None:
    """Return the most specific virtual host: exact, then the longest `*.suffix`, the longest `prefix.*`, then `*`."""
    authority = request.authority.lower()
    ports = configuration.get("ignore_port_in_host_matching").is_true() or manager.get("strip_any_host_port").is_true()
    name = authority.rpartition(":")[0] if ports and authority.rpartition(":")[2].isdecimal() else authority
    best: tuple[int, int, Node] | None = None
    for host in configuration.get("virtual_hosts").items():
        for domain in host.get("domains").texts():
            rank = _rank(domain.lower(), name)
            if rank is not None and (best is None or rank > best[:2]):
                best = (*rank, host)
    return best[2] if best else None


def _rank(domain: str, name: str) -> tuple[int, int] | None:
    if domain == name:
        return (3, 0)
    if domain == "*":
        return (0, 0)
    if domain.startswith("*") and name.endswith(domain[1:]) and len(name) >= len(domain):
        return (2, len(domain))
    if domain.endswith("*") and name.startswith(domain[:-1]) and len(name) >= len(domain):
        return (1, len(domain))
    return None


def _matches(match: Node, request: Request, notes: list[str]) -> bool:
    if not _path_matches(match, request, notes):
        return False
    if not all(_header_matches(one, request) for one in match.get("headers").items()):
        return False
    for one in match.get("query_parameters").items():
        value = request.query.get(one.get("name").text())
        wanted = one.get("string_match")
        if value is None or (wanted.exists and not _string_matches(wanted, value)):
            return False
    notes += [
        f"the match of a route has {name}, which is taken to hold" for name in _UNKNOWABLE if match.get(name).exists
    ]
    return True


def _path_matches(match: Node, request: Request, notes: list[str]) -> bool:
    path, sensitive = request.path, match.get("case_sensitive").value is not False
    shown = path if sensitive else path.lower()

    def text(name: str) -> str:
        wanted = match.get(name).text()
        return wanted if sensitive else wanted.lower()

    if match.get("prefix").exists:
        return shown.startswith(text("prefix"))
    if match.get("path").exists:
        return shown == text("path")
    if match.get("path_separated_prefix").exists:
        prefix = text("path_separated_prefix")
        return shown == prefix or shown.startswith(f"{prefix}/")
    if match.get("safe_regex").exists:
        return _whole(match.get("safe_regex", "regex").text(), path)
    if match.get("connect_matcher").exists:
        return request.method == "CONNECT"
    if match.get("path_match_policy").exists:
        notes.append("a path_match_policy is not understood here and is taken not to match")
    return False


def _header_matches(matcher: Node, request: Request) -> bool:
    values = request.headers.get_all(matcher.get("name").text())
    found = _value_matches(matcher, ",".join(values) if values else None)
    return found is not matcher.get("invert_match").is_true()


def _value_matches(matcher: Node, value: str | None) -> bool:
    if matcher.get("present_match").exists:
        return (value is not None) is (matcher.get("present_match").value is not False)
    if value is None:
        if not matcher.get("treat_missing_header_as_empty").is_true():
            return False
        value = ""
    if matcher.get("string_match").exists:
        return _string_matches(matcher.get("string_match"), value)
    if matcher.get("range_match").exists:
        low, high = (matcher.get("range_match", end).integer(0) for end in ("start", "end"))
        return value.lstrip("-").isdecimal() and len(value) < 20 and low <= int(value) < high
    old = {f"{name}_match": matcher.get(f"{name}_match") for name in ("exact", "prefix", "suffix", "contains")}
    for name, node in old.items():
        if node.exists:
            return _METHODS[name.removesuffix("_match")](value, node.text())
    if matcher.get("safe_regex_match").exists:
        return _whole(matcher.get("safe_regex_match", "regex").text(), value)
    return True


_METHODS: dict[str, Callable[[str, str], bool]] = {
    "exact": str.__eq__,
    "prefix": str.startswith,
    "suffix": str.endswith,
    "contains": lambda value, wanted: wanted in value,
}


def _string_matches(matcher: Node, value: str) -> bool:
    ignore = matcher.get("ignore_case").is_true()
    for name, method in _METHODS.items():
        wanted = matcher.get(name)
        if wanted.exists:
            text = wanted.text()
            return method(value.lower(), text.lower()) if ignore else method(value, text)
    return _whole(matcher.get("safe_regex", "regex").text(), value)


def _whole(pattern: str, value: str) -> bool:
    try:
        return re2.fullmatch(pattern, value) is not None
    except re2.error:
        return False
