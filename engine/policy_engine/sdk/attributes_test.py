"""What Envoy knows, as policies see it: what was asked for, typed, and nothing that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policy_engine.kit.loading import load_policy
from policy_engine.sdk import Policy, Request, RequestMutation
from policy_engine.sdk.attributes import ATTRIBUTES, NotAskedFor, why_not
from policy_engine.sdk.testing import entry, request, run
from policy_engine.worker.policies.manifest import parse_manifest

MANIFEST = """\
name: asking
version: v1.0.0
description: Asks.
entrypoint: policy:Asking
phases: [request_headers]
request_attributes: [connection.mtls, source.port]
forwarding_namespaces: [envoy.filters.http.jwt_authn]
"""

CODE = """\
from policy_engine.sdk import Policy

class Asking(Policy):
    def on_request_headers(self, request):
        request.metadata["found"] = {name: request.attributes.get(name) for name in request.metadata["names"]}
        request.metadata["claims"] = request.envoy_metadata["envoy.filters.http.jwt_authn"]["claims"]
"""
METADATA = {"envoy.filters.http.jwt_authn": {"claims": {"sub": "ann", "n": 7, "part": 0.5, "list": [None, True]}}}


@pytest.fixture
def asking(tmp_path: Path) -> Policy:
    (tmp_path / "policy.yaml").write_text(MANIFEST)
    (tmp_path / "policy.py").write_text(CODE)
    return load_policy(tmp_path)


def asked(*names: str, **given: Any) -> Request:
    return request(metadata={"names": names}, envoy_metadata=METADATA, **given)


def test_values_have_their_types_and_what_envoy_does_not_know_is_absent(asking: Policy) -> None:
    given = {"connection.mtls": True, "source.port": 5000}
    assert run(asking, asked("connection.mtls", "source.port", attributes=given)).metadata["found"] == given
    assert run(asking, asked("connection.mtls")).metadata["found"] == {"connection.mtls": None}


def test_what_was_not_asked_for_is_an_error_even_of_get(asking: Policy) -> None:
    sent = asked("request.protocol", attributes={"request.protocol": "HTTP/2"})
    with pytest.raises(NotAskedFor, match=r"`request_attributes` in policy.yaml \(asked for: connection.mtls, source"):
        run(asking, sent)
    # A condition asks as well as a policy, for the whole chain.
    condition = 'request.attributes["request.protocol"] == "HTTP/2"'
    assert run(entry(asking, condition=condition), sent).metadata["found"] == {"request.protocol": "HTTP/2"}


def test_metadata_is_read_only_json(asking: Policy) -> None:
    claims = run(asking, asked()).metadata["claims"]
    assert dict(claims) == {"sub": "ann", "n": 7, "part": 0.5, "list": (None, True)}
    assert type(claims["n"]) is int
    with pytest.raises(TypeError):
        claims["sub"] = "root"


def test_metadata_of_any_size_costs_no_more_than_it_may() -> None:
    class Reading(Policy):
        def on_request_headers(self, request: Request) -> RequestMutation:
            return RequestMutation(set_headers={"x-n": str(len(request.envoy_metadata["a"]))})

    deep: Any = "x"
    for _ in range(40):
        deep = [deep]
    for metadata in ({"a": {"list": list(range(5000))}}, {"a": {"deep": deep}}):
        with pytest.raises(ValueError, match="Envoy's metadata"):
            run(Reading({}), request(envoy_metadata=metadata))
        condition = 'request.envoy_metadata["a"].x == 1'
        outcome = run(entry(Reading({}), condition=condition, failure_mode="closed"), request(envoy_metadata=metadata))
        assert outcome.status == 500


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("response.code", "is not known to Envoy when"),
        ("upstream.address", "is not known to Envoy when"),
        ("connection.termination_details", "is not known to Envoy when"),
        ("request.headers", "is a map or a message"),
        ("xds.route_metadata", "is a map or a message"),
        ("filter_state", "is a map or a message"),
        ("connection.mutual", "is not an attribute of Envoy"),
        ("Connection.mtls", "is not an attribute of Envoy"),
        ("", "is not an attribute of Envoy"),
    ],
)
def test_names_are_those_that_envoy_documents_and_can_send(name: str, reason: str) -> None:
    assert reason in why_not(name)
    assert not any(why_not(one) for one in ATTRIBUTES)
    with pytest.raises(ValueError, match=reason):
        request(attributes={name: "x"})
    manifest, found = parse_manifest("policy.yaml", MANIFEST.replace("source.port", f'"{name}"').encode())
    assert manifest is None
    assert reason in str(found[0])
    assert str(found[0]).startswith("policy.yaml:6:")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("source.port", "connection.mtls", "/request_attributes/1: is listed twice"),
        ("source.port", "7", "/request_attributes/1: is not the name of an attribute"),
        ("source.port", "conection.id", "did you mean 'connection.id'?"),
        ("[connection.mtls, source.port]", "connection.mtls", "/request_attributes: "),
        ("envoy.filters.http.jwt_authn", "[]", "/forwarding_namespaces/0: is not a namespace of metadata"),
        ("envoy.filters.http.jwt_authn", '""', "/forwarding_namespaces/0: is not a namespace of metadata"),
        ("envoy.filters.http.jwt_authn", "a, a", "/forwarding_namespaces/1: is listed twice"),
    ],
)
def test_mistakes_of_a_manifest_are_named_with_their_place(old: str, new: str, error: str) -> None:
    manifest, found = parse_manifest("policy.yaml", MANIFEST.replace(old, new).encode())
    assert manifest is None
    assert error in str(found[0])
