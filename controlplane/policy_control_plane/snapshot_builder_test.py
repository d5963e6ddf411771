"""The resources that Envoy and engines get for a configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2, processing_mode_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import json_format

from policy_control_plane.model import ClusterModel, Endpoint, ListenerModel, MatchKind, Model, RouteModel
from policy_control_plane.resources import CHAIN, CLUSTER, ENDPOINTS, LISTENER, ROUTES, Snapshot, snapshot_version
from policy_control_plane.snapshot_builder import SnapshotBuilder
from policy_engine.envoy.access_log import access_log
from policy_engine.envoy.demands import Demands, buffer_limit_for
from policy_engine.envoy.edge import SPELLINGS, http2_limits
from policy_engine.envoy.filter_config import engine_cluster, ext_proc_filter
from policy_engine.kernel.route_key import ROUTE_NAME, RouteKey
from policy_engine.limits import BODY_LIMIT
from policy_engine.sdk import Policy
from policy_engine.sdk.hooks import Phase
from policy_engine.sources.xds import chain as xds_chain
from policy_engine.worker.policies.registry import PolicyDefinition, Registry, Version

Mode = processing_mode_pb2.ProcessingMode
FILTER = "envoy.filters.http.ext_proc"
LOCAL = ClusterModel("app", (Endpoint("10.0.0.1", 80),))
ENGINE = ClusterModel("policy-engine", (Endpoint(path="/run/e.sock"),), http2=True, health_checked=True)
HTTP = ListenerModel("http", "127.0.0.1", 8080)


class Streaming(Policy):
    def on_request_chunk(self, request: Any, chunk: Any) -> None: ...

    def on_response_chunk(self, request: Any, response: Any, chunk: Any) -> None: ...


def definition(name: str, *phases: Phase, kind: type[Policy] = Policy) -> PolicyDefinition:
    return PolicyDefinition(name, Version(1, 0, 0), "", "m:C", frozenset(phases), {}, (), kind, "test", "0")


REGISTRY = Registry(
    [
        definition("request", Phase.REQUEST_HEADERS),
        definition("both", Phase.REQUEST_HEADERS, Phase.RESPONSE_HEADERS),
        definition("body", Phase.REQUEST_HEADERS, Phase.REQUEST_BODY),
        definition("stream", Phase.REQUEST_BODY, Phase.RESPONSE_BODY, kind=Streaming),
        definition("trailers", Phase.REQUEST_TRAILERS, Phase.RESPONSE_TRAILERS),
    ]
)


def route(name: str, *policies: str, chain: bool = True, **fields: Any) -> RouteModel:
    entries = tuple({"name": policy, "version": "v1"} for policy in policies)
    return RouteModel(name, MatchKind.PREFIX, f"/{name}", "app", chain=entries if chain else None, **fields)


def build(*routes: RouteModel, registry: Registry | None = REGISTRY, **parts: Any) -> Snapshot:
    given: dict[str, Any] = {"listeners": (HTTP,), "clusters": (LOCAL,), "engine": ENGINE, "routes": routes}
    return SnapshotBuilder(registry).build(Model(**given | parts))


def routes_of(snapshot: Snapshot, listener: str = "http", host: str = "*") -> dict[str, Any]:
    configuration = route_pb2.RouteConfiguration.FromString(snapshot[ROUTES][listener].body)
    (virtual_host,) = [one for one in configuration.virtual_hosts if host in one.domains]
    return {one.name: one for one in virtual_host.routes}


def per_route(snapshot: Snapshot, name: str) -> Any:
    found = routes_of(snapshot)[name].typed_per_filter_config
    if FILTER not in found:
        return None
    message = ext_proc_pb2.ExtProcPerRoute()
    assert found[FILTER].Unpack(message)
    return message


def modes(*policies: str) -> tuple[int, ...]:
    mode = per_route(build(route("r", *policies)), "r").overrides.processing_mode
    return (
        mode.request_header_mode,
        mode.request_body_mode,
        mode.request_trailer_mode,
        mode.response_header_mode,
        mode.response_body_mode,
        mode.response_trailer_mode,
    )


def test_a_route_and_its_chain_have_one_name() -> None:
    snapshot = build(route("a", "both"), route("b", "body"))
    assert xds_chain.decode(snapshot[CHAIN]["a"].body)["policies"][0]["name"] == "both"
    assert list(routes_of(snapshot)) == ["a", "b", ""]


def test_the_filter_is_off_for_routes_that_have_nothing_to_run() -> None:
    disabled = replace(route("disabled"), chain=({"name": "both", "version": "v1", "enabled": False},))
    snapshot = build(route("none", chain=False), route("empty"), disabled, route("some", "both"))
    off = [name for name in ("none", "empty", "disabled", "some") if per_route(snapshot, name).disabled]
    assert off == ["none", "empty", "disabled"]
    assert set(snapshot[CHAIN]) == {"empty", "disabled", "some"}


def test_what_has_no_route_gets_404_from_envoy_and_the_engine_is_not_asked() -> None:
    snapshot = build(route("a", "both"))
    assert routes_of(snapshot)[""].direct_response.status == 404
    assert per_route(snapshot, "").disabled


def test_envoy_is_asked_for_the_phases_that_the_chain_needs_and_no_others() -> None:
    send, skip, none = Mode.SEND, Mode.SKIP, Mode.NONE
    assert modes("request") == (send, none, skip, skip, none, skip)
    assert modes("request", "both") == (send, none, skip, send, none, skip)
    # With a body its trailers: they may be all that a request has after its headers.
    assert modes("request", "body") == (send, Mode.BUFFERED, send, skip, none, skip)
    assert modes("trailers") == (send, none, send, send, none, send)
    duplex = Mode.FULL_DUPLEX_STREAMED
    assert modes("stream") == (send, duplex, send, send, duplex, send)
    assert modes("stream", "body") == (send, Mode.BUFFERED, send, send, duplex, send)


def test_without_knowing_a_policy_the_engine_decides_which_phases_it_needs() -> None:
    assert per_route(build(route("r", "both"), registry=None), "r") is None
    assert per_route(build(route("r", "both", "unknown")), "r") is None


def manager_of(snapshot: Snapshot) -> Any:
    listener = listener_pb2.Listener.FromString(snapshot[LISTENER]["http"].body)
    manager = http_connection_manager_pb2.HttpConnectionManager()
    assert listener.filter_chains[0].filters[0].typed_config.Unpack(manager)
    return manager


def processor_of(snapshot: Snapshot) -> Any:
    processor = ext_proc_pb2.ExternalProcessor()
    assert manager_of(snapshot).http_filters[0].typed_config.Unpack(processor)
    return processor


def test_the_filter_fails_closed_and_asks_for_what_the_engine_needs() -> None:
    processor = processor_of(build(route("a", "both")))
    assert not processor.failure_mode_allow
    assert processor.allow_mode_override
    assert list(processor.request_attributes) == ["xds.route_name", "source.address"]
    assert processor.mutation_rules.allow_all_routing.value


def test_without_an_engine_there_is_no_filter() -> None:
    snapshot = build(route("a", chain=False), engine=None)
    assert [one.name for one in manager_of(snapshot).http_filters] == ["envoy.filters.http.router"]
    assert per_route(snapshot, "a") is None


def test_envoy_waits_longer_than_the_slowest_chain_and_a_small_change_leaves_the_listener() -> None:
    def slow(seconds: int) -> Snapshot:
        entries = tuple({"name": "both", "version": "v1", "timeout": f"{seconds}s"} for _ in range(2))
        return build(replace(route("a"), chain=entries))

    assert processor_of(slow(3)).message_timeout.seconds == 16
    assert slow(4)[LISTENER] == slow(3)[LISTENER]
    assert processor_of(slow(3000)).message_timeout.seconds == 3600  # the most that Envoy accepts
    assert slow(4)[CHAIN] != slow(3)[CHAIN]


def test_envoy_waits_for_policies_whose_timeout_is_the_engines_own() -> None:
    model = Model((HTTP,), (LOCAL,), ENGINE, (route("a", "both"),))
    assert processor_of(SnapshotBuilder(REGISTRY).build(model)).message_timeout.seconds == 2
    assert processor_of(SnapshotBuilder(REGISTRY, policy_timeout=10.0).build(model)).message_timeout.seconds == 16


def test_endpoints_are_discovered_unless_a_name_has_to_be_looked_up() -> None:
    named = ClusterModel("named", (Endpoint("app.example", 80, is_name=True),))
    snapshot = build(clusters=(LOCAL, named))
    assert set(snapshot[ENDPOINTS]) == {"app", "policy-engine"}
    kinds = {name: cluster_pb2.Cluster.FromString(one.body).type for name, one in snapshot[CLUSTER].items()}
    assert kinds["app"] == kinds["policy-engine"] == cluster_pb2.Cluster.EDS
    assert kinds["named"] == cluster_pb2.Cluster.STRICT_DNS
    moved = build(clusters=(replace(LOCAL, endpoints=(Endpoint("10.0.0.2", 80),)),))
    assert moved[CLUSTER]["app"] == snapshot[CLUSTER]["app"]
    assert moved[ENDPOINTS]["app"] != snapshot[ENDPOINTS]["app"]


def test_a_route_without_hosts_is_for_every_host() -> None:
    snapshot = build(
        route("all", chain=False),
        route("one", chain=False, hosts=("one.example",)),
        route("two", chain=False, hosts=("one.example", "two.example")),
    )
    assert list(routes_of(snapshot)) == ["all", ""]
    assert list(routes_of(snapshot, host="one.example")) == ["all", "one", "two", ""]
    assert list(routes_of(snapshot, host="two.example")) == ["all", "two", ""]


def test_a_route_may_be_for_one_listener_only() -> None:
    inner = ListenerModel("inner", "127.0.0.1", 8081)
    snapshot = build(route("all", chain=False), route("in", chain=False, listeners=("inner",)), listeners=(HTTP, inner))
    assert list(routes_of(snapshot, "http")) == ["all", ""]
    assert list(routes_of(snapshot, "inner")) == ["all", "in", ""]


def test_replicas_and_restarts_make_the_same_snapshot() -> None:
    routes = [route(f"r{i}", "both" if i % 2 else "body") for i in range(20)]
    one, kept = build(*routes), SnapshotBuilder(REGISTRY)
    model = Model((HTTP,), (LOCAL,), ENGINE, tuple(routes))
    assert kept.build(replace(model, routes=())) != one
    assert kept.build(model) == kept.build(model) == one
    assert snapshot_version(one) == snapshot_version(build(*routes))


def test_an_edit_changes_only_what_it_is_about() -> None:
    before = build(route("a", "both"), route("b", "both"))
    after = build(route("a", "both"), replace(route("b", "both"), chain=({"name": "both", "version": "v1.0.0"},)))
    assert after[CHAIN]["a"] == before[CHAIN]["a"]
    assert after[CHAIN]["b"] != before[CHAIN]["b"]
    assert {**after, CHAIN: None} == {**before, CHAIN: None}


def test_the_engines_cluster_is_the_one_that_the_engine_itself_would_write() -> None:
    assert http_protocol_options_pb2.DESCRIPTOR  # imported for the parser to know the message
    written = json_format.ParseDict(engine_cluster(["unix:/run/e.sock"]), cluster_pb2.Cluster())
    served = cluster_pb2.Cluster.FromString(build()[CLUSTER]["policy-engine"].body)
    for field in ("type", "load_assignment", "eds_cluster_config"):  # the hosts, which are discovered here
        written.ClearField(field)
        served.ClearField(field)
    assert served == written


def test_the_filter_is_the_one_that_the_engine_itself_would_write() -> None:
    assert previous_hosts_pb2.DESCRIPTOR  # imported for the parser to know the message
    demands = Demands({}, 0, RouteKey(), pass_unmapped=False, addresses=(), tls=False)
    config = ext_proc_filter(demands, ["namespace"])["typed_config"]
    written = json_format.ParseDict(
        {key: value for key, value in config.items() if key != "@type"}, ext_proc_pb2.ExternalProcessor()
    )
    served = processor_of(SnapshotBuilder(None, metadata_namespaces=("namespace",)).build(Model((HTTP,), (), ENGINE)))
    served.message_timeout.CopyFrom(written.message_timeout)  # rounded here
    assert served == written


def test_envoy_is_asked_for_what_policies_and_conditions_read() -> None:
    knowing = replace(
        definition("knowing", Phase.REQUEST_HEADERS),
        request_attributes=frozenset({"connection.mtls"}),
        forwarding_namespaces=frozenset({"envoy.filters.http.jwt_authn"}),
    )
    condition = 'request.attributes["request.protocol"] == "HTTP/2" && "geo" in request.envoy_metadata'
    entries: tuple[dict[str, Any], ...] = (
        {"name": "knowing", "version": "v1"},
        {"name": "elsewhere", "version": "v1", "condition": condition},
        {"name": "request", "version": "v1", "enabled": False, "condition": '"off" in request.envoy_metadata'},
    )
    asked = processor_of(build(replace(route("a"), chain=entries), registry=Registry([knowing])))
    assert list(asked.request_attributes) == [ROUTE_NAME, "source.address", "connection.mtls", "request.protocol"]
    assert list(asked.metadata_options.forwarding_namespaces.untyped) == ["envoy.filters.http.jwt_authn", "geo"]
    nothing = processor_of(build(route("a", "both")))
    assert list(nothing.request_attributes) == [ROUTE_NAME, "source.address"]
    assert not nothing.metadata_options.HasField("forwarding_namespaces")


def test_requests_are_spelt_as_behind_the_configuration_that_the_engine_itself_would_write() -> None:
    manager = manager_of(build(route("a", "both")))
    http2 = http2_limits(buffer_limit_for(BODY_LIMIT))
    edge = {**SPELLINGS, "http2_protocol_options": http2, "access_log": access_log()}
    written = json_format.ParseDict(edge, http_connection_manager_pb2.HttpConnectionManager())
    for field in ("stat_prefix", "rds", "http_filters"):  # what is this listener's own
        manager.ClearField(field)
    assert json_format.MessageToDict(manager) == json_format.MessageToDict(written), "but for the order of packed maps"
    options = manager.common_http_protocol_options
    assert options.HeadersWithUnderscoresAction.Name(options.headers_with_underscores_action) == "REJECT_REQUEST"
    assert manager.strip_trailing_host_dot


def test_envoys_own_answers_are_not_sent_to_the_engine() -> None:
    mode = processor_of(build(route("a", "both"))).processing_mode
    assert mode.HeaderSendMode.Name(mode.response_header_mode) == "SKIP"
