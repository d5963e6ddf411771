"""The form of the files: what is accepted, and that every mistake is told with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy_control_plane.configuration import model_reader
from policy_control_plane.model import Endpoint, HeaderMatch, MatchKind
from policy_control_plane.model_reader import LoadedModel
from policy_control_plane.resources import CHAIN
from policy_control_plane.snapshot_builder import SnapshotBuilder
from policy_engine.documents.diagnostics import Severity
from policy_engine.sdk import Policy
from policy_engine.sdk.hooks import Phase
from policy_engine.sources.chain_file import ChainFiles
from policy_engine.sources.xds import chain as xds_chain
from policy_engine.worker.policies.registry import PolicyDefinition, Registry, Version

WHOLE = """
version: v1
listeners:
- {name: http, address: 127.0.0.1, port: 8080}
clusters:
- {name: app, endpoints: ["10.0.0.1:80", "[::1]:81", "app.example:82", "unix:/run/app.sock"], http2: true}
engine: {endpoints: ["unix:/run/engine.sock"]}
routes:
- name: a
  match: {prefix: /a, headers: [{name: x-tenant, exact: t}, {name: x-debug, present: true}]}
  cluster: app
  hosts: [api.example.com]
  listeners: [http]
  timeout: 3s
  chain: [{name: known, version: v1, parameters: {limit: 1}}]
- {name: b, match: {path: /b}, cluster: app}
- {name: c, match: {regex: "/c/[0-9]+"}, cluster: app, chain: []}
- {name: d, match: {path_separated_prefix: /d}, cluster: app}
"""

SCHEMA = {"type": "object", "properties": {"limit": {"type": "integer"}}, "additionalProperties": False}
KNOWN = PolicyDefinition(
    "known", Version(1, 0, 0), "", "m:C", frozenset({Phase.REQUEST_HEADERS}), SCHEMA, (), Policy, "test", "0"
)


def read(*texts: str, registry: Registry | None = None) -> LoadedModel:
    files = {Path(f"f{index}.yaml"): text.encode() for index, text in enumerate(texts)}
    return model_reader(registry).read(ChainFiles(files, ()))


def test_a_whole_file() -> None:
    loaded = read(WHOLE, registry=Registry([KNOWN]))
    assert loaded.diagnostics == ()
    model = loaded.model
    assert model is not None
    assert [route.name for route in model.routes] == ["a", "b", "c", "d"]
    first = model.routes[0]
    assert first.headers == (HeaderMatch("x-tenant", MatchKind.EXACT, "t"), HeaderMatch("x-debug", MatchKind.PRESENT))
    assert (first.hosts, first.listeners, first.timeout) == (("api.example.com",), ("http",), 3.0)
    assert [route.chain is None for route in model.routes] == [False, True, False, True]
    assert model.clusters[0].endpoints == (
        Endpoint("10.0.0.1", 80),
        Endpoint("::1", 81),
        Endpoint("app.example", 82, is_name=True),
        Endpoint(path="/run/app.sock"),
    )
    assert model.clusters[0].resolved_by_envoy
    assert model.engine is not None
    assert not model.engine.resolved_by_envoy


def test_spellings_of_a_host_are_one() -> None:
    spellings = "api.example.com, API.Example.com, api.example.com., 'api.example.com:8443', 'Api.example.com.:80'"
    loaded = read(WHOLE.replace("hosts: [api.example.com]", f"hosts: [{spellings}, '*.example.org']"))
    assert loaded.model is not None, loaded.diagnostics
    assert loaded.model.routes[0].hosts == ("api.example.com", "*.example.org")


def test_files_are_taken_together_in_the_order_of_their_names() -> None:
    route = "version: v1\nroutes: [{name: %s, match: {prefix: /}, cluster: app}]"
    base = "version: v1\nclusters: [{name: app, endpoints: []}]"
    loaded = read(route % "z", base, route % "a")
    assert loaded.model is not None
    assert [one.name for one in loaded.model.routes] == ["z", "a"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("routes:", "rotes:"), "'rotes' is not a key of a control plane file; did you mean 'routes'?"),
        (("version: v1\n", "version: v2\n"), "f0.yaml:2:10: /version: is not one of the values allowed"),
        (("chain: [{", "chian: [{"), "did you mean 'chain'?"),
        (("cluster: app\n  hosts", "cluster: ap\n  hosts"), "there is no cluster 'ap'; did you mean 'app'?"),
        (("listeners: [http]", "listeners: [htp]"), "there is no listener 'htp'; did you mean 'http'?"),
        (("port: 8080", "port: 80808"), "needs a port (got 80808); allowed: 1 to 65535"),
        (("port: 8080", "port: true"), "needs a port"),
        (("address: 127.0.0.1", "address: localhost"), "is not an IP address"),
        (("10.0.0.1:80", "10.0.0.1"), "/clusters/0/endpoints/0: is not an endpoint"),
        (("[::1]:81", "::1:81"), "/clusters/0/endpoints/1: is not an endpoint"),
        (("{path: /b}", "{path: b}"), "must begin with '/'"),
        (("{path: /b}", "{path: /b, prefix: /c}"), "must have exactly one of path, prefix"),
        (("{path: /b}", "{headers: []}"), "must have exactly one of path, prefix"),
        (("match: {path: /b}, ", ""), "lacks the required key 'match'"),
        (("{path_separated_prefix: /d}", "{path_separated_prefix: /d/}"), "must neither end with '/'"),
        (("/c/[0-9]+", "/c/(?=x)"), "is not an RE2 regular expression"),
        (("{name: x-debug, present: true}", "{name: x-debug, present: false}"), "can only be true"),
        (("name: x-tenant", 'name: "x tenant"'), "is not a header name"),
        (("{name: b,", "{name: a,"), "the route name 'a' is already used in f0.yaml:"),
        (("{name: b,", '{name: "b b",'), "cannot name a route"),
        (("name: app,", "name: policy-engine,"), "is the name of the engine's own cluster"),
        (("timeout: 3s", "timeout: 3"), "must be a duration with its unit"),
        (("hosts: [api.example.com]", "hosts: [api_*]"), "is not a host"),
        (('engine: {endpoints: ["unix:/run/engine.sock"]}\n', ""), "no file says where the engine is"),
        (("limit: 1", "limit: much"), "f0.yaml:15:58: /routes/0/chain/0/parameters/limit: known v1.0.0: "),
        (("name: known", "name: knwon"), "there is no policy 'knwon' in this engine; did you mean 'known'?"),
        (("version: v1, parameters", "version: v7, parameters"), 'in this version (got "v7"); allowed: v1.0.0'),
        (("chain: []", "chain: none"), "/routes/2/chain"),
        (("limit: 1", "limit: 9007199254740993"), "f0.yaml:15:58: /routes/0/chain/0/parameters/limit: the integer"),
    ],
)
def test_a_mistake_is_told_with_place_and_cure(change: tuple[str, str], expected: str) -> None:
    old, new = change
    assert old in WHOLE
    loaded = read(WHOLE.replace(old, new, 1), registry=Registry([KNOWN]))
    assert loaded.model is None
    assert expected in "\n".join(map(str, loaded.diagnostics))


def test_all_mistakes_are_told_at_once() -> None:
    text = WHOLE.replace("port: 8080", "port: 0").replace("{path: /b}", "{path: b}").replace("limit: 1", "limit: x")
    assert len(read(text, registry=Registry([KNOWN])).diagnostics) == 3


def test_what_only_an_engine_can_judge_is_left_to_it() -> None:
    assert read(WHOLE.replace("name: known", "name: other")).model is not None
    secret = WHOLE.replace("limit: 1", "limit: '${env:NOT_HERE}'")
    assert read(secret, registry=Registry([KNOWN])).model is not None


def test_without_a_registry_the_form_of_chains_is_checked_even_so() -> None:
    loaded = read(WHOLE.replace("version: v1, parameters", "timeout: soon, version: v1, parameters"))
    assert "/routes/0/chain/0/timeout: is not a duration" in "\n".join(map(str, loaded.diagnostics))


def test_a_chain_found_good_is_not_taken_for_good_once_it_changes() -> None:
    reader = model_reader(Registry([KNOWN]))

    def found(text: str) -> int:
        return len(reader.read(ChainFiles({Path("f.yaml"): text.encode()}, ())).diagnostics)

    assert [found(WHOLE), found(WHOLE), found(WHOLE.replace("limit: 1", "limit: x")), found(WHOLE)] == [0, 0, 1, 0]


SHARED = """
version: v1
clusters: [{name: app, endpoints: []}]
engine: {endpoints: []}
shared:
  standard:
  - {name: known, version: v1, mode: shadow}
  - use: more
  more:
  - {name: known, version: v1, share: 5%, parameters: {limit: 2}}
routes:
- {name: a, match: {path: /a}, cluster: app, body_limit: 1MiB, chain: [use: standard, {name: known, version: v1}]}
- {name: b, match: {path: /b}, cluster: app, chain: [use: standard]}
"""


def test_shared_lists_are_put_in_and_new_keys_handed_on() -> None:
    loaded = read(SHARED, registry=Registry([KNOWN]))
    assert loaded.model is not None, loaded.diagnostics
    first, second = loaded.model.routes
    listed = (
        {"name": "known", "version": "v1", "mode": "shadow"},
        {"name": "known", "version": "v1", "share": "5%", "parameters": {"limit": 2}},
    )
    assert (first.chain, first.settings) == ((*listed, {"name": "known", "version": "v1"}), {"body_limit": "1MiB"})
    assert (second.chain, second.settings) == (listed, {})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("limit: 2", "limit: x"), "f0.yaml:10:"),
        (("limit: 2", "limit: 9007199254740993"), "f0.yaml:10:"),
        (
            ("use: more", "use: moer"),
            "f0.yaml:8:10: /shared/standard/1/use: there is no shared list 'moer'; did you mean",
        ),
        (("mode: shadow", "mode: shade"), "/shared/standard/0/mode: is not one of the values allowed"),
        (("body_limit: 1MiB", "body_limit: 1GiB"), "/routes/0/body_limit: is too large"),
        ((", chain: [use: standard]}", ", body_limit: 1MiB}"), "goes with a chain, and this route has none"),
        (
            ("{name: known, version: v1}]", "{name: known, version: v1, share: 5}]"),
            "/routes/0/chain/1/share: has no unit",
        ),
    ],
)
def test_a_mistake_in_a_shared_list_is_told_where_it_stands(change: tuple[str, str], expected: str) -> None:
    old, new = change
    assert old in SHARED
    loaded = read(SHARED.replace(old, new, 1), registry=Registry([KNOWN]))
    assert loaded.model is None
    found = "\n".join(map(str, loaded.diagnostics))
    assert expected in found
    assert [one.severity for one in loaded.diagnostics].count(Severity.ERROR) == 1, found


def test_a_route_may_have_as_large_a_body_as_the_engines_take() -> None:
    files = ChainFiles({Path("f.yaml"): SHARED.replace("1MiB", "20MiB").encode()}, ())
    assert model_reader(Registry([KNOWN])).read(files).model is None
    assert model_reader(Registry([KNOWN]), 20 << 20).read(files).model is not None


ERRORS = """
version: v1
clusters: [{name: app, endpoints: ["10.0.0.1:80"]}]
engine: {endpoints: ["unix:/run/engine.sock"]}
routes:
- name: a
  match: {prefix: /a}
  cluster: app
  chain: []
  errors: {format: openai, templates: [{status: 401, body: sign in}]}
"""


def test_how_denials_are_written_goes_to_the_engines_with_the_chain() -> None:
    model = read(ERRORS).model
    assert model is not None
    (chain,) = SnapshotBuilder().build(model)[CHAIN].values()
    sent = xds_chain.decode(chain.body)
    templates = [{"status": "401", "content_type": "text/plain; charset=utf-8", "body": "sign in"}]
    assert sent["errors"] == {"format": "openai", "templates": templates}
    plain = read(ERRORS.replace("  errors: {format: openai, templates: [{status: 401, body: sign in}]}\n", "")).model
    assert plain is not None
    (chain,) = SnapshotBuilder().build(plain)[CHAIN].values()
    assert "errors" not in xds_chain.decode(chain.body)


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("openai", "xml", "/routes/0/errors/format"),
        ("sign in", "'{{why}}'", "/routes/0/errors/templates/0/body"),
        ("  chain: []\n", "", "/routes/0/errors"),
    ],
)
def test_mistakes_in_how_denials_are_written_have_a_place(old: str, new: str, path: str) -> None:
    loaded = read(ERRORS.replace(old, new))
    assert loaded.model is None
    assert [one.path for one in loaded.diagnostics] == [path]
