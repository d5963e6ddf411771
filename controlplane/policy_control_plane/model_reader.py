"""Reads the YAML of listeners, clusters, engine and routes, and reports every mistake with its place.

A separate module because the form of the files is a promise to operators (controlplane/README.md), apart from what is
made of them. Chains are read by the engine's own library, so that both mean the same by a chain.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import re2

from policy_control_plane.model import ClusterModel, Endpoint, HeaderMatch, ListenerModel, MatchKind, Model, RouteModel
from policy_engine.documents.diagnostics import Diagnostic, Findings, Rule, TooManyFindings, has_errors, ordered
from policy_engine.documents.fields import Fields, did_you_mean
from policy_engine.documents.yaml_document import Document, read_document
from policy_engine.envoy.filter_config import ENGINE_CLUSTER
from policy_engine.sdk import host_of
from policy_engine.sdk.json_pointer import Path, find, path_within
from policy_engine.sources.chain_file import ChainFiles
from policy_engine.sources.chain_reader import CHAIN_SETTINGS, ChainReader
from policy_engine.sources.error_answers import read_errors
from policy_engine.sources.shared_lists import SHARED, Place, SharedLists
from policy_engine.sources.xds import chain as xds_chain

FILE_KEYS = ("version", "listeners", "clusters", "engine", SHARED, "routes")
LISTENER_KEYS = ("name", "address", "port")
CLUSTER_KEYS = ("name", "endpoints", "connect_timeout", "http2")
ENGINE_KEYS = ("endpoints", "connect_timeout")
ROUTE_KEYS = ("name", "match", "cluster", "hosts", "listeners", "timeout", "chain", "errors", *CHAIN_SETTINGS)
PATH_KEYS = {
    "path": MatchKind.EXACT,
    "prefix": MatchKind.PREFIX,
    "path_separated_prefix": MatchKind.SEGMENTS,
    "regex": MatchKind.REGEX,
}
MATCH_KEYS = (*PATH_KEYS, "headers")
HEADER_KEYS = ("name", "exact", "prefix", "regex", "present")

MAX_ROUTES = 10_000
MAX_PARTS = 1_000
MAX_TIMEOUT = 3600.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}", re.ASCII)
_HOST = re.compile(r"(\*|(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\.?(:\d{1,5})?)", re.ASCII)
_HEADER = re.compile(r":?[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", re.ASCII)
_NAME_FORM = "letters, digits and . _ : / - (at most 255)"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What was read: `model` is None when one of the `diagnostics` is an error."""

    model: Model | None
    diagnostics: tuple[Diagnostic, ...]


@dataclass(slots=True)
class _Load:
    diagnostics: Findings
    listeners: list[ListenerModel] = field(default_factory=list)
    clusters: list[ClusterModel] = field(default_factory=list)
    engines: list[ClusterModel] = field(default_factory=list)
    routes: list[RouteModel] = field(default_factory=list)
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    references: list[tuple[Fields, Path, str, str]] = field(default_factory=list)
    shared: SharedLists = field(init=False)

    def __post_init__(self) -> None:
        self.shared = SharedLists(self.diagnostics)


class ModelReader:
    """Reads the files of one configuration directory; keep it, since the chain reader remembers what it found good.

    `chain_rules_left_to_engines` are findings about chains that only an engine can judge, such as secrets that are not
    here, or policies when no registry was given.
    """

    def __init__(self, chains: ChainReader, chain_rules_left_to_engines: frozenset[Rule]) -> None:
        self._chains = chains
        self._left_to_engines = chain_rules_left_to_engines
        self._good: set[str] = set()
        self._good_now: set[str] = set()

    def read(self, files: ChainFiles) -> LoadedModel:
        """Return the model in `files`, taken as one configuration in the order of their names."""
        load = _Load(Findings(files.diagnostics))
        documents = []
        with suppress(TooManyFindings):
            for path, content in files.contents.items():
                document, found = read_document(str(path), content)
                load.diagnostics.extend(found)
                if document is not None:
                    documents.append(document)
            load.shared.add(documents)
            for document in documents:
                self._file(document, load)
            load.shared.check_all()
            _check_references(load)
        self._good, self._good_now = self._good_now, set()
        diagnostics = ordered(load.diagnostics)
        if has_errors(diagnostics):
            return LoadedModel(None, diagnostics)
        engine = load.engines[0] if load.engines else None
        model = Model(tuple(load.listeners), tuple(load.clusters), engine, tuple(load.routes))
        return LoadedModel(model, diagnostics)

    def _file(self, document: Document, load: _Load) -> None:
        fields = Fields(document, (), FILE_KEYS, load.diagnostics, "a control plane file")
        if not isinstance(document.value, dict):
            return
        fields.choice("version", ("v1",))
        for index, _ in enumerate(fields.items("listeners", required=False, most=MAX_PARTS)):
            _listener(document, ("listeners", index), load)
        for index, _ in enumerate(fields.items("clusters", required=False, most=MAX_PARTS)):
            _cluster(document, ("clusters", index), load)
        if "engine" in fields:
            _engine(document, load)
        for index, _ in enumerate(fields.items("routes", required=False, most=MAX_ROUTES)):
            self._route(document, ("routes", index), load)

    def _route(self, document: Document, path: Path, load: _Load) -> None:
        fields = Fields(document, path, ROUTE_KEYS, load.diagnostics, "a route")
        if not isinstance(find(document.value, path), dict):
            return
        name = _name(fields, document, path, "route", load)
        match = _match(document, (*path, "match"), load) if "match" in fields else None
        if "match" not in fields:
            fields.error((), "lacks the required key 'match'", rule=Rule.MISSING_KEY, allowed=", ".join(PATH_KEYS))
        cluster = fields.text("cluster", required=True)
        if cluster is not None:
            load.references.append((fields, ("cluster",), "cluster", cluster))
        listeners = _texts(fields, "listeners")
        for index, listener in enumerate(listeners):
            load.references.append((fields, ("listeners", index), "listener", listener))
        hosts = _texts(fields, "hosts")
        for index, host in enumerate(hosts):
            if not _HOST.fullmatch(host):
                fields.error(("hosts", index), "is not a host", value=host, allowed="api.example.com, *.example.com")
        timeout = fields.duration("timeout", default=15.0, longest=MAX_TIMEOUT)
        settings = {key: fields.raw(key) for key in CHAIN_SETTINGS if key in fields}
        chain = self._chain(fields, document, path, name, settings, load) if "chain" in fields else None
        if "chain" in fields:
            load.references.append((fields, ("chain",), "engine", ""))
        for key in settings if "chain" not in fields else ():
            fields.error((key,), "goes with a chain, and this route has none")
        errors = None
        if "errors" in fields:
            errors = read_errors(document, (*path, "errors"), load.diagnostics)
            if "chain" not in fields:
                fields.error(("errors",), "is of no use without a chain, whose denials it is about")
        if name is None or cluster is None or match is None:
            return
        kind, value, headers = match
        # Two spellings of one host would be two virtual hosts, which Envoy refuses, or one that no request finds.
        spelled = tuple(dict.fromkeys(map(host_of, hosts)))
        load.routes.append(
            RouteModel(name, kind, value, cluster, headers, spelled, listeners, timeout, chain, settings, errors)
        )

    def _chain(  # noqa: PLR0917 # the route's own parts
        self,
        fields: Fields,
        document: Document,
        path: Path,
        name: str | None,
        settings: Mapping[str, Any],
        load: _Load,
    ) -> tuple[Mapping[str, Any], ...]:
        chain, places = fields.raw("chain"), list[Place]()
        if isinstance(chain, list):
            places = load.shared.places(document, (*path, "chain"), chain)
            chain = [find(place.document.value, place.path) for place in places]
        # One edit leaves nearly all chains as they were: those without a finding need not be read again.
        content = json.dumps([chain, settings])
        if content in self._good:
            self._good_now.add(content)
            return tuple(chain)
        route = {"route_key": name or "unnamed", "policies": chain, **settings}
        read = self._chains.read_route(name or "", route)
        for found in read.diagnostics:
            if found.rule in self._left_to_engines:
                continue
            place = _place(route, found.path, places, Place(document, path))
            load.diagnostics.append(
                place.document.diagnostic(
                    place.path,
                    found.reason,
                    key=found.rule is Rule.UNKNOWN_KEY,
                    value=found.value,
                    allowed=found.allowed,
                    severity=found.severity,
                    rule=found.rule,
                )
            )
        if not isinstance(chain, list) or has_errors(load.diagnostics):
            return ()
        try:
            xds_chain.encode(route)
        except xds_chain.ChainError as error:
            place = _place(route, error.path, places, Place(document, path))
            load.diagnostics.append(place.document.diagnostic(place.path, error.reason, rule=Rule.PARAMETERS))
            return ()
        if not read.diagnostics:
            self._good_now.add(content)
        return tuple(chain)


def _place(route: Mapping[str, Any], pointer: str, places: Sequence[Place], own: Place) -> Place:
    """Return where the part of a chain that `pointer` leads to was written; `own` is the place of the route."""
    within = path_within(route, pointer)
    match within:
        case ("policies", int(index), *rest) if index < len(places):
            return Place(places[index].document, (*places[index].path, *rest))
        case ("policies", *rest):
            return Place(own.document, (*own.path, "chain", *rest))
    return Place(own.document, (*own.path, *within))


def _name(fields: Fields, document: Document, path: Path, what: str, load: _Load) -> str | None:
    name = fields.text("name", required=True)
    if name is None:
        return None
    if not _NAME.fullmatch(name):
        fields.error(("name",), f"cannot name a {what}", value=name, allowed=_NAME_FORM)
        return None
    place = document.locate((*path, "name"))
    here = f"{document.file}:{place.line}" if place else document.file
    first = load.places.setdefault((what, name), here)
    if first != here:
        fields.error(("name",), f"the {what} name {name!r} is already used in {first}", rule=Rule.DUPLICATE_ROUTE)
    return name


def _listener(document: Document, path: Path, load: _Load) -> None:
    fields = Fields(document, path, LISTENER_KEYS, load.diagnostics, "a listener")
    if not isinstance(find(document.value, path), dict):
        return
    name = _name(fields, document, path, "listener", load)
    address = fields.text("address", required=True)
    if address is not None and not _is_ip(address):
        fields.error(("address",), "is not an IP address", value=address, allowed="0.0.0.0, 127.0.0.1, ::")
        address = None
    port = fields.raw("port")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        fields.error(("port",) if "port" in fields else (), "needs a port", value=port, allowed="1 to 65535")
        return
    if name is not None and address is not None:
        load.listeners.append(ListenerModel(name, address, port))


def _cluster(document: Document, path: Path, load: _Load) -> None:
    fields = Fields(document, path, CLUSTER_KEYS, load.diagnostics, "a cluster")
    if not isinstance(find(document.value, path), dict):
        return
    name = _name(fields, document, path, "cluster", load)
    if name == ENGINE_CLUSTER:
        fields.error(("name",), f"{ENGINE_CLUSTER!r} is the name of the engine's own cluster", value=name)
    endpoints = _endpoints(fields)
    connect_timeout = fields.duration("connect_timeout", default=1.0, longest=60.0)
    http2 = fields.boolean("http2", default=False)
    if name is not None:
        load.clusters.append(ClusterModel(name, endpoints, connect_timeout, http2))


def _engine(document: Document, load: _Load) -> None:
    fields = Fields(document, ("engine",), ENGINE_KEYS, load.diagnostics, "the engine")
    if load.engines:
        fields.error((), "the engine is described twice; one file may do so", rule=Rule.DUPLICATE_KEY)
    endpoints = _endpoints(fields)
    connect_timeout = fields.duration("connect_timeout", default=1.0, longest=60.0)
    load.engines.append(ClusterModel(ENGINE_CLUSTER, endpoints, connect_timeout, http2=True, health_checked=True))


def _endpoints(fields: Fields) -> tuple[Endpoint, ...]:
    endpoints = []
    for index, text in enumerate(fields.items("endpoints", most=MAX_PARTS)):
        endpoint = _endpoint(text) if isinstance(text, str) else None
        if endpoint is None:
            forms = "10.0.0.1:8080, [::1]:8080, name.example:8080, unix:/run/app.sock"
            fields.error(("endpoints", index), "is not an endpoint", value=text, allowed=forms)
        else:
            endpoints.append(endpoint)
    return tuple(endpoints)


def _endpoint(text: str) -> Endpoint | None:
    if text.startswith("unix:/"):
        path = text.removeprefix("unix:")
        return Endpoint(path=path) if len(path.encode()) <= 107 else None
    host, separator, port = text.rpartition(":")
    if not separator or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        return None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        return Endpoint(host, int(port)) if _is_ip(host) else None
    if _is_ip(host):
        return Endpoint(host, int(port)) if ":" not in host else None
    return Endpoint(host, int(port), is_name=True) if _HOST.fullmatch(host) and "*" not in host else None


def _match(document: Document, path: Path, load: _Load) -> tuple[MatchKind, str, tuple[HeaderMatch, ...]] | None:
    fields = Fields(document, path, MATCH_KEYS, load.diagnostics, "a match")
    if not isinstance(find(document.value, path), dict):
        return None
    given = [key for key in PATH_KEYS if key in fields]
    if len(given) != 1:
        fields.error((), f"must have exactly one of {', '.join(PATH_KEYS)}, not {len(given)}", rule=Rule.MISSING_KEY)
        return None
    key = given[0]
    value = fields.text(key, required=True, longest=8192)
    headers = tuple(
        header
        for index, _ in enumerate(fields.items("headers", required=False, most=64))
        if (header := _header(document, (*path, "headers", index), load)) is not None
    )
    if value is None:
        return None
    if key == "regex":
        _check_regex(fields, (key,), value)
    elif not value.startswith("/"):
        fields.error((key,), "must begin with '/'", value=value)
    elif key == "path_separated_prefix" and (value.endswith("/") or "?" in value or "#" in value):
        fields.error((key,), "must neither end with '/' nor have a query or fragment", value=value)
    return PATH_KEYS[key], value, headers


def _header(document: Document, path: Path, load: _Load) -> HeaderMatch | None:
    fields = Fields(document, path, HEADER_KEYS, load.diagnostics, "a header match")
    if not isinstance(find(document.value, path), dict):
        return None
    name = fields.text("name", required=True)
    if name is not None and not _HEADER.fullmatch(name):
        fields.error(("name",), "is not a header name", value=name)
        name = None
    given = [key for key in ("exact", "prefix", "regex", "present") if key in fields]
    if len(given) != 1:
        fields.error((), f"must have exactly one of exact, prefix, regex, present, not {len(given)}")
        return None
    kind = MatchKind(given[0])
    if kind is MatchKind.PRESENT:
        if fields.raw("present") is not True:
            fields.error(("present",), "can only be true", value=fields.raw("present"), allowed="true")
        return HeaderMatch(name, kind) if name is not None else None
    value = fields.text(kind.value, required=True, longest=8192)
    if value is not None and kind is MatchKind.REGEX:
        _check_regex(fields, (kind.value,), value)
    return HeaderMatch(name, kind, value) if name is not None and value is not None else None


def _check_regex(fields: Fields, within: Path, pattern: str) -> None:
    """Envoy uses RE2 with a limit on the size of programs; what RE2 refuses here it would refuse there."""
    try:
        re2.compile(pattern)
    except re2.error as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        fields.error(within, f"is not an RE2 regular expression: {reason}", value=pattern)


def _texts(fields: Fields, key: str) -> tuple[str, ...]:
    texts = []
    for index, text in enumerate(fields.items(key, required=False, most=MAX_PARTS)):
        if isinstance(text, str) and text:
            texts.append(text)
        else:
            fields.error((key, index), "must be a non-empty text", rule=Rule.WRONG_TYPE)
    return tuple(texts)


def _check_references(load: _Load) -> None:
    # Names of parts that are wrong count too, or one mistake would be told many times.
    known = {what: [name for kind, name in load.places if kind == what] for what in ("cluster", "listener")}
    for fields, within, what, name in load.references:
        if what == "engine":
            if not load.engines:
                reason = "the route has a chain, but no file says where the engine is"
                fields.error(within, reason, rule=Rule.MISSING_KEY, allowed="engine: {endpoints: [...]}")
        elif name not in known[what]:
            meant = did_you_mean(name, known[what])
            allowed = ", ".join(known[what][:50]) or "none is defined"
            fields.error(within, f"there is no {what} {name!r}{meant}", allowed=allowed)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
