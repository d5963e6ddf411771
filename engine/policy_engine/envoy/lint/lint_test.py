"""The lint: what it writes itself is clean, and each broken promise is reported at the line that breaks it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.extensions.access_loggers.stream.v3 import stream_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.formatter.req_without_query.v3 import req_without_query_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import json_format
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from policy_engine.documents.diagnostics import Diagnostic, Rule, Severity
from policy_engine.documents.yaml_document import read_document
from policy_engine.envoy.bootstrap import Sample, bootstrap, render
from policy_engine.envoy.demands import Demands, demands_of
from policy_engine.envoy.filter_config import EngineTls, fragments
from policy_engine.envoy.lint.lint import lint_documents, lint_file
from policy_engine.sdk import Policy
from policy_engine.settings.model import RouteKeySettings, RouteKeySource, Settings, TlsSettings, UnmappedRoutes
from policy_engine.worker.chains.spec import ChainsSpec, Mode, PolicySpec, RouteSpec, Unmapped
from policy_engine.worker.policies.registry import Registry
from testsupport.chains import define, entry

# Messages inside of Any can be read once their modules are there.
_ = (
    stream_pb2,
    req_without_query_pb2,
    ext_proc_pb2,
    router_pb2,
    previous_hosts_pb2,
    http_connection_manager_pb2,
    http_protocol_options_pb2,
)


class Headers(Policy):
    def on_request_headers(self, request: Any) -> None:
        return None


class ResponseHeaders(Policy):
    def on_response_headers(self, request: Any, response: Any) -> None:
        return None


class Whole(Policy):
    def on_request_body(self, request: Any) -> None:
        return None


class WholeResponse(Policy):
    def on_response_body(self, request: Any, response: Any) -> None:
        return None


class Streams(Policy):
    def on_request_chunk(self, request: Any, chunk: Any) -> None:
        return None


class StreamsResponse(Policy):
    def on_response_chunk(self, request: Any, response: Any, chunk: Any) -> None:
        return None


class Trailers(Policy):
    def on_request_trailers(self, request: Any, trailers: Any) -> None:
        return None


CLASSES = (Headers, ResponseHeaders, Whole, WholeResponse, Streams, StreamsResponse, Trailers)
REGISTRY = Registry([define(one) for one in CLASSES])


def demands(routes: Mapping[str, list[PolicySpec | type[Policy]]], settings: Settings | None = None) -> Demands:
    specs = [
        RouteSpec(key, tuple(one if isinstance(one, PolicySpec) else entry(one) for one in chain))
        for key, chain in routes.items()
    ]
    return demands_of(settings or Settings(), ChainsSpec(tuple(specs)), REGISTRY)


USUAL = demands({"open": [], "headers": [Headers], "whole": [Whole, Streams], "stream": [StreamsResponse]})
TEXT = render(bootstrap(USUAL, Sample()))


def lint(text: str, wanted: Demands = USUAL) -> list[Diagnostic]:
    document, found = read_document("envoy.yaml", text.encode())
    assert not found
    assert document is not None
    return lint_documents([document], wanted)


def line_of(text: str, containing: str, after: str = "") -> int:
    start = text.index(after)
    return text.count("\n", 0, text.index(containing, start)) + 1


@pytest.mark.parametrize(
    ("rule", "severity", "old", "new", "at"),
    [
        (Rule.ENVOY_OVERRIDE, "error", "allow_mode_override: true", "allow_mode_override: false", "allow_mode_override"),
        (Rule.ENVOY_TIMEOUT, "error", "message_timeout: 3s", "message_timeout: 2s", "message_timeout"),
        (Rule.ENVOY_RETRY, "warning", "retry_on: connect-failure,", "retry_on: ", "retry_on"),
        (Rule.ENVOY_RETRY, "warning", "retry_policy:", "timeout: 1s\n              x:", "grpc_service"),
        (Rule.ENVOY_BUFFER, "error", "bytes: 10551296", "bytes: 1048576", "per_connection_buffer_limit_bytes"),
        (Rule.ENVOY_ATTRIBUTE, "error", "- xds.route_name", "- request.path", "- request.path"),
        (Rule.ENVOY_ATTRIBUTE, "warning", "- source.address", "- source.port", "- xds.route_name"),
        (Rule.ENVOY_ATTRIBUTE, "warning", "- response.code_details", "- response.code", "- response.code"),
        (Rule.ENVOY_FAILURE_MODE, "error", "mode_allow: false", "mode_allow: true", "failure_mode_allow"),
        (Rule.ENVOY_FLOOD, "error", "max_outbound_frames: 100000", "max_outbound_frames: 10000", "max_outbound_frames"),
        (Rule.ENVOY_FLOOD, "error", "control_frames: 100000", "control_frames: 1000", "max_outbound_control_frames"),
        (Rule.ENVOY_MUTATION, "warning", "allow_all_routing: true", "allow_envoy: true", "allow_envoy"),
        (Rule.ENVOY_MUTATION, "error", "allow_all_routing: true", "{disallow_all: true, allow_all_routing: true}", "{disallow_all"),
        (Rule.ENVOY_MODE, "error", "_body_mode: FULL_DUPLEX_STREAMED", "_body_mode: BUFFERED", "response_body_mode: BUFFERED"),
        (Rule.ENVOY_MODE, "error", "response_trailer_mode: SEND", "response_trailer_mode: SKIP", "response_body_mode: FULL_DUPLEX_STREAMED|response_trailer_mode: SKIP"),
        (Rule.ENVOY_ROUTE, "error", "name: headers", "name: header", "name: header"),
        (Rule.ENVOY_ROUTE, "warning", "name: headers", "name: open", "virtual_hosts"),
        (Rule.ENVOY_FILTER, "error", "allow_mode_override: true", "allow_mode_override: true\n              observability_mode: true", "observability_mode"),
        (Rule.ENVOY_FILTER, "error", "ext_proc.v3.ExternalProcessor", "lua.v3.Lua", "listeners:"),
        (Rule.ENVOY_CLUSTER, "error", "cluster_name: policy-engine", "cluster_name: engine", "cluster_name: engine"),
        (Rule.ENVOY_HTTP2, "error", "explicit_http_config", "other_http_config", "HttpProtocolOptions:"),
        (Rule.ENVOY_CIRCUIT_BREAKER, "error", "max_requests: 100000", "max_requests: 1024", "max_requests"),
        (Rule.ENVOY_CIRCUIT_BREAKER, "error", "max_pending_requests: 100000", "track_remaining: true", "max_connections"),
    ],
)  # fmt: skip
def test_a_broken_promise_is_reported_where_it_is_broken(
    rule: Rule, severity: str, old: str, new: str, at: str
) -> None:
    assert TEXT.count(old) >= 1
    broken = TEXT.replace(old, new, 1)
    found = [one for one in lint(broken) if one.rule is rule and one.severity.value == severity]
    # A list or an object is reported where its content begins, one line below its key.
    assert len(found) == 1, found
    assert found[0].line is not None
    after, _, at = at.rpartition("|")
    assert found[0].line - line_of(broken, at, after) in (0, 1)
    others = {one.rule for one in lint(broken)} - {rule}
    assert not others - {Rule.ENVOY_ROUTE, Rule.ENVOY_CLUSTER}


def test_what_it_writes_is_clean() -> None:
    assert lint(TEXT) == []


def test_a_switched_off_filter_in_front_of_policies_is_an_error() -> None:
    found = lint(TEXT, replace(USUAL, chains={**USUAL.chains, "open": USUAL.chains["headers"]}))
    (one,) = [one for one in found if "filter is off" in one.reason]
    assert (one.severity, one.line) == (Severity.ERROR, line_of(TEXT, "disabled: true"))


@pytest.mark.parametrize("level", ["route", "virtual_host", "route_config", "filter"])
def test_every_way_to_switch_it_off_is_seen(level: str) -> None:
    config = bootstrap(demands({"headers": [Headers]}), Sample())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (host,) = manager["route_config"]["virtual_hosts"]
    route, _ = host["routes"]
    del route["typed_per_filter_config"]
    off = {
        "envoy.filters.http.ext_proc": {
            "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
            "disabled": True,
        }
    }
    if level == "filter":
        manager["http_filters"][0]["disabled"] = True
    else:
        {"route": route, "virtual_host": host, "route_config": manager["route_config"]}[level][
            "typed_per_filter_config"
        ] = off
    text = render(config)
    (one,) = lint(text, demands({"headers": [Headers]}))
    assert (one.rule, one.severity) == (Rule.ENVOY_ROUTE, Severity.ERROR)
    assert text.splitlines()[(one.line or 0) - 1].strip() == "disabled: true"


def test_a_part_of_a_route_that_is_switched_off_is_seen() -> None:
    config = bootstrap(demands({"headers": [Headers]}), Sample())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    route, _ = manager["route_config"]["virtual_hosts"][0]["routes"]
    off = {"@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute", "disabled": True}
    part = {"name": "upstream", "weight": 1, "typed_per_filter_config": {"envoy.filters.http.ext_proc": off}}
    route["route"] = {"weighted_clusters": {"clusters": [{"name": "upstream", "weight": 99}, part]}}
    text = render(config)
    (one,) = lint(text, demands({"headers": [Headers]}))
    assert (one.rule, one.line) == (Rule.ENVOY_ROUTE, line_of(text, "disabled: true"))


def _edited(change: Callable[[Any], None], wanted: Demands = USUAL) -> str:
    config = bootstrap(wanted, Sample())
    change(config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"])
    return render(config)


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        (Rule.ENVOY_SPELLING, lambda manager: manager.pop("normalize_path")),
        (Rule.ENVOY_SPELLING, lambda manager: manager.pop("merge_slashes")),
        (Rule.ENVOY_SPELLING, lambda manager: manager.pop("path_with_escaped_slashes_action")),
        (Rule.ENVOY_SPELLING, lambda manager: manager.update(path_with_escaped_slashes_action="KEEP_UNCHANGED")),
        (Rule.ENVOY_SPELLING, lambda manager: manager.pop("strip_trailing_host_dot")),
        (Rule.ENVOY_SPELLING, lambda manager: manager.pop("common_http_protocol_options")),
        (
            Rule.ENVOY_SPELLING,
            lambda manager: manager["common_http_protocol_options"].update(headers_with_underscores_action="ALLOW"),
        ),
        (
            Rule.ENVOY_SPELLING,
            lambda manager: manager["route_config"].update(
                ignore_port_in_host_matching=False,
                virtual_hosts=[{**manager["route_config"]["virtual_hosts"][0], "domains": ["api.example.com"]}],
            ),
        ),
        (Rule.ENVOY_UPGRADE, lambda manager: manager.update(upgrade_configs=[{"upgrade_type": "websocket"}])),
        (
            Rule.ENVOY_LOCAL_REPLY,
            lambda manager: manager["http_filters"][0]["typed_config"]["processing_mode"].pop("response_header_mode"),
        ),
    ],
)
def test_what_an_envoy_at_the_edge_needs_is_warned_of(rule: Rule, change: Callable[[Any], None]) -> None:
    (one,) = lint(_edited(change))
    assert (one.rule, one.severity) == (rule, Severity.WARNING)


def test_upgrades_are_no_matter_where_no_chain_needs_whole_bodies() -> None:
    wanted = demands({"headers": [Headers], "stream": [StreamsResponse]})
    text = _edited(lambda manager: manager.update(upgrade_configs=[{"upgrade_type": "websocket"}]), wanted)
    assert lint(text, wanted) == []


def test_response_headers_that_only_a_forbidden_override_would_bring_are_an_error() -> None:
    wanted = demands({"r": [ResponseHeaders]})
    text = render(bootstrap(wanted, Sample())).replace("response_header_mode: SEND", "response_header_mode: SKIP")
    assert lint(text, wanted) == []
    text = text.replace("allow_mode_override: true", "allow_mode_override: false")
    assert [(one.rule, one.severity) for one in lint(text, wanted) if "headers are not sent here" in one.reason] == [
        (Rule.ENVOY_MODE, Severity.ERROR)
    ]


def _linted(tmp_path: Path, text: str, *ignored: str) -> list[tuple[Rule, str]]:
    file = tmp_path / "envoy.yaml"
    file.write_text(text)
    return [(one.rule, one.severity.value) for one in lint_file(file, USUAL, ignored)]


def test_one_finding_for_a_cluster_which_can_be_silenced(tmp_path: Path) -> None:
    at = TEXT.rindex("max_connections: 100000")
    text = TEXT[:at] + TEXT[at:].replace("100000", "1000")
    warned = [(Rule.ENVOY_CIRCUIT_BREAKER, "warning")]
    assert _linted(tmp_path, text) == warned
    assert _linted(tmp_path, text, "envoy-retry-policy") == warned
    assert _linted(tmp_path, text, "envoy-circuit-breaker") == []
    comment = "# policy-engine: ignore envoy-circuit-breaker"
    line = text[text.rindex("\n", 0, text.rindex("max_connections")) + 1 :].splitlines()[0]
    assert _linted(tmp_path, text.replace(line, f"{line}  {comment}")) == []
    above = f"# policy-engine: ignore envoy-route, envoy-circuit-breaker\n{line}"
    assert _linted(tmp_path, text.replace(line, above)) == []
    assert _linted(tmp_path, text.replace(line, f"{line}  {comment}-s")) == warned
    assert _linted(tmp_path, f"{comment}\n\n{text}") == warned


def test_an_error_cannot_be_silenced(tmp_path: Path) -> None:
    text = TEXT.replace("failure_mode_allow: false", "failure_mode_allow: true")
    assert _linted(tmp_path, text, "envoy-failure-mode") == [(Rule.ENVOY_FAILURE_MODE, "error")]


@pytest.mark.parametrize("name", ["n", "y", "No", "YES", "off", "1e3", "0x1F", ".5", "nan", "true"])
def test_a_name_that_envoy_reads_as_something_else_is_an_error(tmp_path: Path, name: str) -> None:
    written = TEXT.replace("name: headers", f"name: {name}")
    assert (Rule.ENVOY_SCALAR, "error") in _linted(tmp_path, written)
    quoted = TEXT.replace("name: headers", f"name: '{name}'")
    assert Rule.ENVOY_SCALAR not in [rule for rule, _ in _linted(tmp_path, quoted)]


@pytest.mark.parametrize(
    "key", ["0E0", "1e5", "0o17", "089", "1_0", "0x1F", ".5", "nan", "true", "on", "~", "-1", "2026-11-24"]
)
def test_a_route_key_that_looks_like_something_else_stays_text(key: str) -> None:
    wanted = demands({key: [Headers]})
    assert lint(render(bootstrap(wanted, Sample())), wanted) == []


def test_a_route_key_of_several_lines_stays_what_it_is() -> None:
    config = bootstrap(demands({"a\n\n  disabled: b": [Headers]}), Sample())
    assert yaml.safe_load(render(config)) == config


def test_a_route_may_switch_on_what_is_off_elsewhere() -> None:
    config = bootstrap(demands({"headers": [Headers]}), Sample())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"][0]["disabled"] = True
    assert lint(render(config), demands({"headers": [Headers]})) == []


def test_a_route_whose_headers_are_not_sent_is_an_error() -> None:
    broken = TEXT.replace("request_header_mode: SEND", "request_header_mode: SKIP")
    found = [one for one in lint(broken) if "request headers are not sent" in one.reason]
    assert re.findall(r"chain '(\w+)'", " ".join(one.reason for one in found)) == ["headers", "whole", "stream"]


@pytest.mark.parametrize(("side", "reader"), [("request", Whole), ("response", WholeResponse)])
@pytest.mark.parametrize("mode", ["NONE", "STREAMED", "BUFFERED_PARTIAL"])
def test_a_body_that_only_a_forbidden_override_would_bring_is_an_error(
    side: str, reader: type[Policy], mode: str
) -> None:
    wanted = demands({"r": [reader]})
    text = render(bootstrap(wanted, Sample())).replace(f"{side}_body_mode: BUFFERED", f"{side}_body_mode: {mode}")
    relying = [one.severity for one in lint(text, wanted) if one.rule is Rule.ENVOY_MODE]
    assert relying == ([Severity.WARNING] if (side, mode) == ("response", "NONE") else [])
    text = text.replace("allow_mode_override: true", "allow_mode_override: false")
    (one,) = [one for one in lint(text, wanted) if one.rule is Rule.ENVOY_MODE]
    assert (one.severity, one.line) == (Severity.ERROR, line_of(text, f"{side}_body_mode: {mode}", "overrides"))
    assert "'r' needs the whole" in one.reason


@pytest.mark.parametrize(("side", "reader"), [("request", Whole), ("response", WholeResponse)])
def test_trailers_that_would_pass_by_a_body_policy_are_an_error(side: str, reader: type[Policy]) -> None:
    wanted = demands({"r": [reader]})
    text = render(bootstrap(wanted, Sample())).replace(f"{side}_trailer_mode: SEND", f"{side}_trailer_mode: SKIP")
    assert lint(text, wanted) == []
    text = text.replace("allow_mode_override: true", "allow_mode_override: false")
    (one,) = [one for one in lint(text, wanted) if one.rule is Rule.ENVOY_MODE]
    assert (one.severity, one.line) == (Severity.ERROR, line_of(text, f"{side}_trailer_mode: SKIP", "overrides"))


@pytest.mark.parametrize(
    ("manager", "route", "warned"),
    [
        ({}, {}, "300s"),
        ({"stream_idle_timeout": "0s"}, {}, "for ever"),
        ({"stream_idle_timeout": "0s", "request_timeout": "20s"}, {}, None),
        ({"stream_idle_timeout": "30s"}, {}, None),
        ({}, {"idle_timeout": "62s"}, None),
        ({}, {"idle_timeout": "63s"}, "63s"),
        ({"stream_idle_timeout": "30s"}, {"idle_timeout": "0s"}, "for ever"),
    ],
)
def test_a_request_that_could_hang_is_warned_of(
    manager: dict[str, Any], route: dict[str, Any], warned: str | None
) -> None:
    wanted = demands({"r": [Whole]})
    config = bootstrap(wanted, Sample())
    connection = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    connection.pop("request_timeout")
    connection |= manager
    connection["route_config"]["virtual_hosts"][0]["routes"][0]["route"] |= route
    assert lint(render(config), wanted) == []
    found = lint(render(config).replace("request_body_mode: BUFFERED", "request_body_mode: NONE"), wanted)
    assert [(one.rule, one.severity) for one in found] == ([(Rule.ENVOY_IDLE, Severity.WARNING)] if warned else [])
    assert all(f"{warned}, as" in one.reason for one in found)


def test_a_failure_mode_of_one_route_counts() -> None:
    broken = TEXT.replace("overrides:\n", "overrides:\n                      failure_mode_allow: true\n", 1)
    (one,) = lint(broken)
    assert (one.rule, one.line) == (Rule.ENVOY_FAILURE_MODE, line_of(broken, "failure_mode_allow: true"))
    assert "'headers'" in one.reason


def test_a_low_circuit_breaker_of_the_upstream_is_a_warning() -> None:
    head, tail = TEXT.split("  - name: upstream")
    found = lint(f"{head}  - name: upstream{tail.replace('max_connections: 100000', 'max_connections: 1024')}")
    assert [(one.rule, one.severity) for one in found] == [(Rule.ENVOY_CIRCUIT_BREAKER, Severity.WARNING)]


def test_an_override_that_the_list_leaves_out_is_an_error() -> None:
    listed = "allow_mode_override: true\n              allowed_override_modes: [{response_header_mode: SKIP}]"
    found = lint(TEXT.replace("allow_mode_override: true", listed))
    assert {one.rule for one in found} == {Rule.ENVOY_OVERRIDE}
    # The chain "headers" needs just that mode.
    assert sorted(re.findall(r"route '(\w+)'", " ".join(one.reason for one in found))) == ["stream", "whole"]


def test_tls_of_the_engine_has_to_be_in_the_cluster() -> None:
    settings = Settings(tls=TlsSettings(cert=Path("/cert"), key=Path("/key")))
    wanted = demands({"headers": [Headers]}, settings)
    assert [one.rule for one in lint(render(bootstrap(wanted, Sample())), wanted)] == [Rule.ENVOY_CLUSTER]
    assert lint(render(bootstrap(wanted, Sample(), EngineTls(Path("/ca")))), wanted) == []


def test_routes_without_a_chain_are_warnings_where_they_pass() -> None:
    wanted = demands({"headers": [Headers]}, Settings(unmapped_routes=UnmappedRoutes.PASS))
    found = lint(render(bootstrap(wanted, Sample())).replace("name: headers", "name: other"), wanted)
    assert {one.severity for one in found} == {Severity.WARNING}
    assert "pass without policies" in " ".join(one.reason for one in found)


def test_it_reads_what_envoy_reads() -> None:
    """JSON, camelCase, numbers as text and enum numbers mean the same."""
    text = yaml.safe_load(TEXT)

    def camel(value: Any, *, keep: bool = False) -> Any:
        if isinstance(value, dict):
            return {
                name if keep or name[0] == "@" else re.sub(r"_(\w)", lambda m: m[1].upper(), name): camel(
                    one, keep=name in ("typed_per_filter_config", "typed_extension_protocol_options")
                )
                for name, one in value.items()
            }
        if isinstance(value, list):
            return [camel(one) for one in value]
        numbers = {"SEND": 1, "SKIP": 2, "NONE": 0, "BUFFERED": 2, "FULL_DUPLEX_STREAMED": 4}
        if isinstance(value, str):
            return numbers.get(value, value)
        return value if isinstance(value, bool) or value < 10_000 else str(value)

    assert lint(json.dumps(camel(text), indent="\t")) == []


def test_an_unreadable_file_is_a_finding(tmp_path: Path) -> None:
    (one,) = lint_file(tmp_path / "none.yaml", USUAL)
    assert one.rule is Rule.UNREADABLE


def test_a_discovered_route_configuration_is_said_to_be_unchecked() -> None:
    config = bootstrap(USUAL, Sample())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["route_config"]
    manager["rds"] = {"route_config_name": "routes"}
    (one,) = lint(render(config))
    assert (one.rule, one.severity) == (Rule.ENVOY_ROUTE, Severity.WARNING)


KEYS = st.text(min_size=1, max_size=20)
SPECS = st.builds(
    lambda one, timeout, mode, enabled: entry(one, timeout=timeout, failure_mode=mode, enabled=enabled),
    st.sampled_from(CLASSES),
    st.floats(0.001, 3600),
    st.sampled_from(["open", "closed"]),
    st.booleans(),
)
KEY_PLACES = st.sampled_from([RouteKeySettings(), RouteKeySettings(RouteKeySource.METADATA, "a.b", "the key")])
SETTINGS = st.builds(
    Settings,
    body_limit=st.integers(0, 1 << 30),
    route_key=KEY_PLACES,
    listen=st.sampled_from([("127.0.0.1:9002",), ("unix:/run/e{worker}.sock", "[::]:9002"), ("engine.local:9",)]),
    workers=st.integers(1, 8),
)


# No deadline: a shared machine stalls.
@examples(deadline=None, max_examples=60)
@given(st.dictionaries(KEYS, st.lists(SPECS, max_size=5), min_size=1, max_size=5), SETTINGS)
def test_what_it_writes_passes_its_own_lint(chains: dict[str, list[Any]], settings: Settings) -> None:
    wanted = demands(chains, settings)
    config = bootstrap(wanted, Sample(), namespaces=("a",))
    text = render(config, ("a header",))
    assert yaml.safe_load(text) == config
    assert lint(text, wanted) == []


@examples(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([
    "static_resources", "listeners", "filter_chains", "filters", "typed_config", "@type", "http_filters", "route_config",
    "virtual_hosts", "routes", "clusters", "name", "typed_per_filter_config", "circuit_breakers", "thresholds"]), inner)))  # fmt: skip
def test_whatever_the_shape_it_does_not_fail(value: Any) -> None:
    document, _ = read_document("envoy.yaml", yaml.safe_dump(value).encode())
    if document is not None:
        assert lint_documents([document], USUAL) is not None


def test_every_field_is_one_that_envoy_has() -> None:
    """Envoy refuses unknown fields; so does the strict reading of its own messages."""
    tls = EngineTls(Path("/ca"), "engine.internal", Path("/cert"), Path("/key"))
    config = bootstrap(USUAL, Sample(), tls, ("ours",))
    read = json_format.ParseDict(config, bootstrap_pb2.Bootstrap())
    (engine, _) = read.static_resources.clusters
    context = tls_pb2.UpstreamTlsContext()
    assert engine.transport_socket.typed_config.Unpack(context)
    (name,) = context.common_tls_context.validation_context.match_typed_subject_alt_names
    assert (context.sni, name.matcher.exact) == ("engine.internal", "engine.internal")


def test_fragments_are_the_parts_of_the_bootstrap() -> None:
    parts, whole = fragments(USUAL), bootstrap(USUAL, Sample())["static_resources"]
    listener = whole["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert parts["per_connection_buffer_limit_bytes"] == listener["per_connection_buffer_limit_bytes"]
    assert parts["http_filters"][0] == manager["http_filters"][0]
    assert parts["clusters"][0] == whole["clusters"][0]
    for part, route in zip(parts["routes"], manager["route_config"]["virtual_hosts"][0]["routes"], strict=True):
        assert part.items() <= route.items()


def test_keys_that_patterns_match_have_a_chain() -> None:
    spec = ChainsSpec(
        (
            RouteSpec("shop/*", (entry(Headers),)),
            RouteSpec("old/*", unmapped=Unmapped.DENY),
            RouteSpec("unused/*", (entry(Headers),)),
        )
    )
    wanted = demands_of(Settings(), spec, REGISTRY)
    assert wanted.chains.keys() == {"shop/*", "unused/*"}, "the filter stays on where keys count as unmapped"
    config = bootstrap(wanted, Sample())
    (host,) = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"][
        "route_config"
    ]["virtual_hosts"]
    routes = host["routes"][:1] * 3
    host["routes"] = [{**one, "name": name} for one, name in zip(routes, ("shop/1", "old/1", "shpo/1"), strict=True)]
    found = [one.message for one in lint(render(config), wanted) if one.rule is Rule.ENVOY_ROUTE]
    assert any("did you mean 'shop/*'?" in one for one in found)
    assert any("the chain 'unused/*' has no route here" in one for one in found)
    assert len(found) == 2, found


def test_a_shadow_asks_nothing_of_a_configuration() -> None:
    shadow = entry(Whole, mode=Mode.SHADOW), entry(WholeResponse, mode=Mode.SHADOW)
    wanted = demands({"r": list(shadow)})
    assert not wanted.chains["r"].buffers
    assert not wanted.chains["r"].fails_closed
    assert lint(render(bootstrap(wanted, Sample())), wanted) == []
