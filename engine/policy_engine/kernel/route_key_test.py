"""Keys out of what Envoy sends: texts of attributes, and metadata as protobuf text (R-07)."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from google.protobuf import text_format

from policy_engine.kernel.route_key import ATTRIBUTES, ROUTE_METADATA, ROUTE_NAME, RouteKey, metadata_attribute

ISTIO = metadata_attribute("istio", "config")
GATEWAY = "envoy-gateway"


def message(**attributes: Any) -> Any:
    made = ext_proc.ProcessingRequest()
    for name, value in attributes.items():
        kind = {str: "string_value", float: "number_value", bool: "bool_value"}[type(value)]
        setattr(made.attributes[ATTRIBUTES].fields[name], kind, value)
    return made


def metadata(resource: dict[str, Any] | None = None, **namespaces: dict[str, Any]) -> str:
    """The text that Envoy makes of a route's metadata."""
    made = base_pb2.Metadata()
    for namespace, values in namespaces.items():
        made.filter_metadata[namespace].update(values)
    if resource is not None:
        made.filter_metadata[GATEWAY].update({"resources": [resource]})
    return text_format.MessageToString(made)


def resource(name: str = "orders", rule: str = "", namespace: str = "shop", kind: str = "HTTPRoute") -> dict[str, Any]:
    found: dict[str, Any] = {"kind": kind, "namespace": namespace, "name": name}
    found |= {"sectionName": rule} if rule else {}
    return found | {"annotations": {"policy-chain": "gold"}}


@pytest.mark.parametrize(
    ("parts", "sent", "key"),
    [
        (["route_name"], {ROUTE_NAME: "orders"}, "orders"),
        (["httproute"], {ROUTE_METADATA: metadata(resource())}, "httproute/shop/orders"),
        (["httproute"], {ROUTE_METADATA: metadata(resource(rule="create"))}, "httproute/shop/orders/create"),
        (["httproute"], {ROUTE_METADATA: metadata(resource(kind="GRPCRoute"))}, "grpcroute/shop/orders"),
        (["httproute"], {ROUTE_METADATA: metadata(resource()) + " "}, "httproute/shop/orders"),
        (["httproute"], {ROUTE_METADATA: "goo.gle/debugstr  " + metadata(resource())}, "httproute/shop/orders"),
        (["httproute"], {ROUTE_METADATA: metadata(other={"a": "b"})}, ""),
        (["httproute"], {ROUTE_METADATA: "filter_metadata {{{"}, ""),
        (["httproute"], {ROUTE_NAME: "orders"}, ""),
        (["httproute.namespace", "annotation:policy-chain"], {ROUTE_METADATA: metadata(resource())}, "shop/gold"),
        (["annotation:gateway.envoyproxy.io/policy-chain"], {ROUTE_METADATA: metadata(resource())}, "gold"),
        (["annotation:other"], {ROUTE_METADATA: metadata(resource())}, ""),
        (["metadata:policy.engine:chain"], {metadata_attribute("policy.engine", "chain"): "c"}, "c"),
        (["metadata:team:chain"], {ROUTE_METADATA: metadata(team={"chain": "c"})}, "c"),
        (["metadata:team:chain"], {ROUTE_METADATA: metadata(team={"chain": 1})}, ""),
        (
            ["istio", "route_name"],
            {
                ISTIO: "/apis/networking.istio.io/v1alpha3/namespaces/shop/virtual-service/orders",
                ROUTE_NAME: "create",
            },
            "virtual-service/shop/orders/create",
        ),
        (["istio", "route_name"], {ROUTE_NAME: "create"}, "/create"),
        (["istio", "route_name"], {}, ""),
        (["attribute:xds.virtual_host_name"], {"xds.virtual_host_name": "api"}, "api"),
        (["attribute:connection.requested_server_name", "route_name"], {ROUTE_NAME: "a"}, "/a"),
        (["attribute:x.port"], {"x.port": 8443.0}, "8443"),
        (["attribute:x.mtls"], {"x.mtls": True}, "true"),
    ],
)
def test_key(parts: list[str], sent: dict[str, Any], key: str) -> None:
    made = RouteKey(parts)
    for _ in range(2):  # the second time it is remembered
        assert made.find(message(**sent)) == key


def test_keys_of_different_routes_differ() -> None:
    """What stands before another part shows where it ends."""
    key = RouteKey(["metadata:t:tenant", "httproute", "route_name"])
    tenant = metadata_attribute("t", "tenant")
    routes = [
        (tenant_name, rule, name)
        for tenant_name in ("", "a", "a/httproute", "a%2F", "a/b")
        for rule in ("", "r", "n")
        for name in ("", "n", "r/n", "/n")
    ]
    keys = {
        key.find(message(**{tenant: one, ROUTE_METADATA: metadata(resource(rule=rule)), ROUTE_NAME: name}))
        for one, rule, name in routes
    }
    assert len(keys) == len(routes)


def test_a_route_of_the_configuration_has_the_key_that_its_requests_have() -> None:
    values: dict[str, Any] = {
        GATEWAY: {"resources": [resource(rule="create")]},
        "istio": {"config": "/x"},
        "t": {"k": "v"},
    }
    for parts in (["httproute"], ["annotation:policy-chain"], ["istio", "route_name"], ["metadata:t:k", "route_name"]):
        key = RouteKey(parts)
        assert key.of_route("n", values) == key.find(
            message(**{ROUTE_NAME: "n", ROUTE_METADATA: metadata(None, **values)})
        )
    assert RouteKey(["attribute:xds.cluster_name"]).of_route("n", values) is None


def test_what_is_remembered_is_bounded() -> None:
    key = RouteKey(["attribute:x"])
    for number in range(25_000):
        assert key.find(message(x=str(number))) == str(number)
    assert len(key._known) <= 10_000


@pytest.mark.parametrize("parts", [[], ["name"], ["annotation:"], ["metadata:a"], ["metadata:a'b:c"], ["attribute:"]])
def test_what_is_no_part_is_refused(parts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"part|cannot name"):
        RouteKey(parts)


def test_what_has_to_be_asked_for() -> None:
    assert RouteKey().attributes == (ROUTE_NAME,)
    assert RouteKey(["httproute.namespace", "annotation:a"]).attributes == (ROUTE_METADATA,)
    assert RouteKey(["istio", "route_name"]).attributes == (ISTIO, ROUTE_NAME)
