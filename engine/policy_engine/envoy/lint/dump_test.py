"""Config dumps, and filters that are on for some routes only, as control planes make them."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from policy_engine.documents.diagnostics import Diagnostic, Rule, Severity
from policy_engine.documents.yaml_document import read_document
from policy_engine.envoy.bootstrap import Sample, bootstrap
from policy_engine.envoy.demands import Demands, demands_of
from policy_engine.envoy.lint.lint import lint_documents
from policy_engine.sdk import Policy
from policy_engine.settings.model import RouteKeySettings, RouteKeySource, Settings
from policy_engine.worker.chains.spec import ChainsSpec, RouteSpec
from policy_engine.worker.policies.registry import Registry
from testsupport.chains import define, entry

ADMIN = "type.googleapis.com/envoy.admin.v3."
FILTER = "envoy.filters.http.ext_proc"


class Headers(Policy):
    def on_request_headers(self, request: Any) -> None:
        return None


class Whole(Policy):
    def on_request_body(self, request: Any) -> None:
        return None


REGISTRY = Registry([define(Headers), define(Whole)])


def demands(source: RouteKeySource = RouteKeySource.ROUTE_NAME, **routes: list[type[Policy]]) -> Demands:
    specs = tuple(RouteSpec(key, tuple(map(entry, chain))) for key, chain in routes.items())
    settings = Settings(route_key=RouteKeySettings(source=source))
    return demands_of(settings, ChainsSpec(specs), REGISTRY)


def dump(config: Any) -> Any:
    """What `/config_dump?include_eds` tells of an Envoy with this configuration that discovered its routes."""
    static = config["static_resources"]
    route_configs = []
    for listener in static["listeners"]:
        for chain in listener["filter_chains"]:
            manager = chain["filters"][0]["typed_config"]
            route_configs.append(manager.pop("route_config"))
            manager["rds"] = {"route_config_name": route_configs[-1]["name"], "config_source": {"ads": {}}}
    return {
        "configs": [
            {"@type": ADMIN + "BootstrapConfigDump", "bootstrap": {"node": {"id": "a"}}},
            {
                "@type": ADMIN + "ClustersConfigDump",
                "static_clusters": [{"cluster": static["clusters"][0]}],
                "dynamic_active_clusters": [{"cluster": one} for one in static["clusters"][1:]],
            },
            {
                "@type": ADMIN + "ListenersConfigDump",
                "dynamic_listeners": [
                    {"name": one["name"], "active_state": {"version_info": "1", "listener": one}}
                    for one in static["listeners"]
                ],
            },
            {
                "@type": ADMIN + "RoutesConfigDump",
                "dynamic_route_configs": [{"route_config": one} for one in route_configs],
            },
            {"@type": ADMIN + "EndpointsConfigDump"},
        ]
    }


def lint(value: Any, wanted: Demands) -> list[Diagnostic]:
    document, found = read_document("dump.json", json.dumps(value, indent=1).encode())
    assert document is not None
    assert not found
    return lint_documents([document], wanted)


def egctl(value: Any) -> Any:
    """One dump for each Envoy, by namespace and pod."""
    return {"envoy-gateway-system": {"envoy-1": {"configDump": value}, "envoy-2": {"configDump": deepcopy(value)}}}


@pytest.mark.parametrize("wrap", [lambda one: one, egctl, lambda one: {"xds": {"default/eg": one}}])
def test_a_dump_is_read_like_a_bootstrap(wrap: Any) -> None:
    wanted = demands(one=[Headers], two=[Whole], three=[])
    assert lint(wrap(dump(bootstrap(wanted, Sample()))), wanted) == []
    text = json.dumps(dump(bootstrap(wanted, Sample()))).replace('"message_timeout": "2s"', '"message_timeout": "1s"')
    assert {one.rule for one in lint(wrap(json.loads(text)), wanted)} == {Rule.ENVOY_TIMEOUT}
    assert lint(wrap(dump(bootstrap(demands(one=[Headers]), Sample()))), wanted)[0].reason.startswith("the chain")


def per_policy(wanted: Demands, also: str = "") -> Any:
    """One filter for each chain, off and switched on by its route; `also` switches a second one on there."""
    config = bootstrap(wanted, Sample())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    ours, router = manager["http_filters"]
    manager["http_filters"] = [
        {**deepcopy(ours), "name": f"{FILTER}/envoyextensionpolicy/default/{key}/extproc/0", "disabled": True}
        for key in wanted.chains
    ] + [router]
    (host,) = manager["route_config"]["virtual_hosts"]
    for route in host["routes"]:
        route.pop("typed_per_filter_config")
        names = [route["name"], *([also] if also else [])] if "name" in route else []
        route["typed_per_filter_config"] = {
            f"{FILTER}/envoyextensionpolicy/default/{name}/extproc/0": {
                "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
                "config": {},
            }
            for name in names
            if wanted.chains[name].runs
        }
    for one in manager["http_filters"][:-1]:
        key = one["name"].split("/")[3]
        one["typed_config"]["processing_mode"] = dict(wanted.chains[key].modes)
    return config


def test_a_filter_that_is_on_for_its_own_route_only_is_judged_by_that_route() -> None:
    wanted = demands(one=[Headers], two=[Whole], three=[])
    assert lint(dump(per_policy(wanted)), wanted) == []
    for number, key in enumerate(wanted.chains):
        config = per_policy(wanted)
        manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        manager["http_filters"][number]["typed_config"]["message_timeout"] = "1s"
        found = lint(dump(config), wanted)
        assert [f"route '{key}'" in one.reason for one in found] == ([True] if key != "three" else [])


def test_two_filters_on_one_route_run_the_chain_twice() -> None:
    wanted = demands(one=[Headers], two=[Headers])
    found = lint(dump(per_policy(wanted, also="two")), wanted)
    assert [(one.rule, one.severity) for one in found] == [(Rule.ENVOY_FILTER, Severity.ERROR)]
    assert "2 filters ask the engine" in found[0].reason


def test_a_route_on_which_no_filter_is_on_is_an_error() -> None:
    wanted = demands(one=[Headers], two=[Headers])
    config = per_policy(wanted)
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["route_config"]["virtual_hosts"][0]["routes"][0].pop("typed_per_filter_config")
    found = lint(dump(config), wanted)
    assert [(one.rule, one.severity) for one in found] == [(Rule.ENVOY_ROUTE, Severity.ERROR)]
    assert "'one' has policies: none of them runs" in found[0].reason


def test_another_processor_is_not_the_engine() -> None:
    wanted = demands(one=[Headers])
    config = bootstrap(wanted, Sample())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    other = deepcopy(manager["http_filters"][0])
    other["name"] = "other"
    other["typed_config"] = {
        "@type": other["typed_config"]["@type"],
        "grpc_service": {"envoy_grpc": {"cluster_name": "upstream"}},
    }
    manager["http_filters"].insert(0, other)
    assert lint(config, wanted) == []
    other["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = "policy-engine"
    assert Rule.ENVOY_ATTRIBUTE in {one.rule for one in lint(config, wanted)}


def gateway_routes(*resources: tuple[str, str]) -> Any:
    """Routes as Envoy Gateway makes them: named by position, with the resource in the metadata."""
    config = bootstrap(demands(r=[Headers]), Sample())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"][0]["typed_config"]["request_attributes"] = ["xds.route_metadata", "source.address"]
    (host,) = manager["route_config"]["virtual_hosts"]
    route, last = host["routes"]
    host["routes"] = [
        {
            **deepcopy(route),
            "name": f"httproute/{namespace}/{name}/rule/{number}/match/0/a_example",
            "metadata": {
                "filter_metadata": {
                    "envoy-gateway": {"resources": [{"kind": "HTTPRoute", "namespace": namespace, "name": name}]}
                }
            },
        }
        for number, (namespace, name) in enumerate(resources)
    ] + [last]
    return config


def test_routes_are_found_by_their_resource() -> None:
    routes: dict[str, list[type[Policy]]] = {"httproute/shop/a": [Headers], "httproute/shop/b": [Headers]}
    wanted = demands(RouteKeySource.HTTPROUTE, **routes)
    assert lint(gateway_routes(("shop", "a"), ("shop", "b"), ("shop", "a")), wanted) == []
    found = lint(gateway_routes(("shop", "a"), ("shop", "c"), ("shop", "b")), wanted)
    assert [(one.rule, one.severity) for one in found] == [(Rule.ENVOY_ROUTE, Severity.ERROR)]
    assert "'httproute/shop/c'" in found[0].reason


def test_owners_that_share_a_chain_are_named() -> None:
    def config(namespaces: list[str], key: str = "same") -> Any:
        made = gateway_routes(*((namespace, "a") for namespace in namespaces))
        manager = made["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        manager["http_filters"][0]["typed_config"]["request_attributes"] = ["xds.route_name", "source.address"]
        for route in manager["route_config"]["virtual_hosts"][0]["routes"][:-1]:
            route["name"] = key
        return made

    wanted = demands(same=[Headers])
    assert lint(config(["shop", "shop"]), wanted) == []
    (one,) = lint(config(["shop", "bank"]), wanted)
    assert (one.rule, one.severity) == (Rule.ENVOY_ROUTE, Severity.ERROR)
    assert "namespaces bank, shop have one key" in one.reason


def test_one_name_in_several_virtual_hosts_is_named() -> None:
    wanted = demands(one=[Headers])
    config = bootstrap(wanted, Sample())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (host,) = manager["route_config"]["virtual_hosts"]
    manager["route_config"]["virtual_hosts"].append({**deepcopy(host), "name": "b", "domains": ["b.example"]})
    (one,) = lint(config, wanted)
    assert (one.rule, one.severity) == (Rule.ENVOY_ROUTE, Severity.WARNING)
    assert "virtual hosts all, b have one key, 'one'" in one.reason
