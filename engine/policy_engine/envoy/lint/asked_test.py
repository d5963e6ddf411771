"""The lint of what policies and conditions read of Envoy: asked for, forwarded, and there in time."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policy_engine.documents.diagnostics import Diagnostic, Rule, Severity
from policy_engine.documents.yaml_document import read_document
from policy_engine.envoy.bootstrap import Sample, bootstrap, render
from policy_engine.envoy.demands import Demands, demands_of
from policy_engine.envoy.lint.lint import lint_documents
from policy_engine.sdk import Policy
from policy_engine.settings.model import Settings
from policy_engine.worker.chains.spec import ChainsSpec, RouteSpec
from policy_engine.worker.policies.registry import Registry
from testsupport.chains import define, entry


class Headers(Policy):
    def on_request_headers(self, request: Any) -> None:
        return None


def demands(**conditions: str) -> Demands:
    routes = tuple(RouteSpec(key, (entry(Headers, condition=one),)) for key, one in conditions.items())
    return demands_of(Settings(), ChainsSpec(routes), Registry([define(Headers)]))


def lint(text: str, wanted: Demands) -> list[Diagnostic]:
    document, found = read_document("envoy.yaml", text.encode())
    assert not found
    assert document is not None
    return lint_documents([document], wanted)


IDENTITY = 'request.attributes["connection.uri_san_peer_certificate"] == "spiffe://a/b"'
CLAIMS = 'request.envoy_metadata["envoy.filters.http.jwt_authn"].claims.sub == "ann"'
ASKING = demands(mtls=IDENTITY, jwt=CLAIMS)


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        (
            "- connection.uri_san_peer_certificate",
            "- connection.mtls",
            ("connection.uri_san_peer_certificate", "'mtls'"),
        ),
        ("- envoy.filters.http.jwt_authn", "- envoy.filters.http.geoip", ("envoy.filters.http.jwt_authn", "'jwt'")),
        ("forwarding_namespaces", "x_namespaces", ("envoy.filters.http.jwt_authn", "'jwt'")),
        ("  metadata_options", "  x_options", ("envoy.filters.http.jwt_authn", "'jwt'")),
    ],
)
def test_what_policies_and_conditions_read_has_to_be_asked_for(old: str, new: str, names: tuple[str, ...]) -> None:
    text = render(bootstrap(ASKING, Sample()))
    assert lint(text, ASKING) == []
    assert text.count(old) == 1
    (found,) = lint(text.replace(old, new), ASKING)
    assert (found.rule, found.severity) == (Rule.ENVOY_ATTRIBUTE, Severity.ERROR)
    assert all(name in found.reason for name in names), found.reason


def test_a_filter_whose_metadata_is_read_stands_before_the_engine() -> None:
    config = bootstrap(ASKING, Sample())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    jwt_authn = {"name": "envoy.filters.http.jwt_authn"}
    manager["http_filters"].insert(0, jwt_authn)
    assert lint(json.dumps(config), ASKING) == []
    manager["http_filters"].append(manager["http_filters"].pop(0))
    (found,) = lint(json.dumps(config), ASKING)
    assert found.rule is Rule.ENVOY_FILTER
    assert "stands after the engine's filter" in found.reason


def test_a_route_that_forwards_other_namespaces_is_reported() -> None:
    config = bootstrap(ASKING, Sample())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    for route in routes[:2]:
        (per_route,) = route["typed_per_filter_config"].values()
        per_route["overrides"]["metadata_options"] = {"forwarding_namespaces": {"untyped": ["other"]}}
    (found,) = lint(json.dumps(config), ASKING)
    assert "lacks envoy.filters.http.jwt_authn" in found.reason
    assert "route 'jwt'" in found.reason
