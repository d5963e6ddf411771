"""The route that Envoy would take, found in its configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policy_engine.envoy.lint.route_match import NoRoute, find_route
from policy_engine.kernel.route_key import RouteKey
from policy_engine.sdk import Headers, Request

NAME = RouteKey()
TYPE = "type.googleapis.com/envoy"


def config(hosts: list[Any], **manager: Any) -> Any:
    http_filter = {
        "name": "envoy.filters.http.ext_proc",
        "typed_config": {
            "@type": f"{TYPE}.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            "allow_mode_override": True,
        },
    }
    typed = {
        "@type": f"{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "http_filters": [http_filter],
        "route_config": {"virtual_hosts": hosts},
        **manager,
    }
    return {"static_resources": {"listeners": [{"filter_chains": [{"filters": [{"typed_config": typed}]}]}]}}


def found(tmp_path: Path, written: Any, target: str = "/", authority: str = "a.example", **headers: str) -> str:
    path = tmp_path / "envoy.yaml"
    path.write_text(json.dumps(written))
    pseudo = {":method": "GET", ":path": target, ":authority": authority}
    return find_route(path, Request(Headers.of({**pseudo, **headers})), NAME).key


def routes(*matches: dict[str, Any], domains: tuple[str, ...] = ("*",)) -> Any:
    return config(
        [
            {
                "name": "h",
                "domains": list(domains),
                "routes": [{"name": f"r{n}", "match": m} for n, m in enumerate(matches)],
            }
        ]
    )


@pytest.mark.parametrize(
    ("match", "target", "fits"),
    [
        ({"prefix": "/a"}, "/a/b?x", True),
        ({"prefix": "/a"}, "/A/b", False),
        ({"prefix": "/a", "case_sensitive": False}, "/A/b", True),
        ({"path": "/a"}, "/a?x=1", True),
        ({"path": "/a"}, "/a/", False),
        ({"path_separated_prefix": "/a"}, "/a/b", True),
        ({"path_separated_prefix": "/a"}, "/ab", False),
        ({"pathSeparatedPrefix": "/a"}, "/a", True),
        ({"safe_regex": {"regex": "/a[0-9]+"}}, "/a12", True),
        ({"safe_regex": {"regex": "/a[0-9]+"}}, "/a12/b", False),
        ({"safe_regex": {"regex": "("}}, "/", False),
        ({"connect_matcher": {}}, "/", False),
        ({"path_match_policy": {}}, "/", False),
        ({"prefix": "/", "query_parameters": [{"name": "x", "string_match": {"exact": "1"}}]}, "/?x=1", True),
        ({"prefix": "/", "query_parameters": [{"name": "x", "string_match": {"exact": "1"}}]}, "/?x=2", False),
        ({"prefix": "/", "query_parameters": [{"name": "x", "present_match": True}]}, "/?x", True),
        ({"prefix": "/", "query_parameters": [{"name": "x", "present_match": True}]}, "/", False),
    ],
)
def test_matches_of_paths_and_queries(tmp_path: Path, match: dict[str, Any], target: str, fits: bool) -> None:
    assert found(tmp_path, routes(match, {"prefix": "/"}), target) == ("r0" if fits else "r1")


@pytest.mark.parametrize(
    ("matcher", "value", "fits"),
    [
        ({"present_match": True}, "x", True),
        ({"present_match": True}, None, False),
        ({"present_match": False}, None, True),
        ({"present_match": True, "invert_match": True}, None, True),
        ({}, "x", True),
        ({}, None, False),
        ({"string_match": {"exact": "x"}}, "x", True),
        ({"string_match": {"exact": "X", "ignore_case": True}}, "x", True),
        ({"string_match": {"prefix": "x"}}, "xy", True),
        ({"string_match": {"suffix": "y"}}, "xy", True),
        ({"string_match": {"contains": "z"}}, "xy", False),
        ({"string_match": {"safe_regex": {"regex": "x."}}}, "xy", True),
        ({"string_match": {"exact": "x"}, "invert_match": True}, "x", False),
        ({"string_match": {"exact": ""}, "treat_missing_header_as_empty": True}, None, True),
        ({"range_match": {"start": 1, "end": 5}}, "4", True),
        ({"range_match": {"start": "1", "end": "5"}}, "5", False),
        ({"range_match": {"start": 1, "end": 5}}, "x", False),
        ({"exact_match": "x"}, "x", True),
        ({"prefix_match": "x"}, "yx", False),
        ({"safe_regex_match": {"regex": "x+"}}, "xx", True),
    ],
)
def test_matches_of_headers(tmp_path: Path, matcher: dict[str, Any], value: str | None, fits: bool) -> None:
    match = {"prefix": "/", "headers": [{"name": "x-h", **matcher}]}
    headers = {} if value is None else {"x-h": value}
    assert found(tmp_path, routes(match, {"prefix": "/"}), **headers) == ("r0" if fits else "r1")


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("a.example", "exact"),
        ("A.Example", "exact"),
        ("b.example", "suffix"),
        ("x.b.example", "longer suffix"),
        ("a.other", "prefix"),
        ("z.z", "any"),
    ],
)
def test_the_most_specific_virtual_host(tmp_path: Path, authority: str, host: str) -> None:
    domains = {"any": "*", "prefix": "a.*", "suffix": "*.example", "longer suffix": "*.b.example", "exact": "a.example"}
    hosts = [
        {"domains": [domain], "routes": [{"name": name, "match": {"prefix": "/"}}]} for name, domain in domains.items()
    ]
    assert found(tmp_path, config(hosts), authority=authority) == host


def test_a_port_counts_unless_it_is_ignored(tmp_path: Path) -> None:
    hosts = [{"domains": ["a.example"], "routes": [{"name": "r", "match": {"prefix": "/"}}]}]
    with pytest.raises(NoRoute, match=r"is for GET a\.example:8443/"):
        found(tmp_path, config(hosts), authority="a.example:8443")
    assert found(tmp_path, config(hosts, strip_any_host_port=True), authority="a.example:8443") == "r"


def test_why_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(NoRoute, match=r"discovered \(RDS\)"):
        found(tmp_path, config([], route_config=None, rds={"route_config_name": "x"}))
    with pytest.raises(NoRoute, match="no listener has the ext_proc filter"):
        found(tmp_path, {"static_resources": {}})
    with pytest.raises(NoRoute, match="cannot be read"):
        find_route(tmp_path / "none.yaml", Request(Headers()), NAME)


def test_what_is_not_certain_is_said_and_what_switches_the_filter_off(tmp_path: Path) -> None:
    per_route = {"@type": f"{TYPE}.extensions.filters.http.ext_proc.v3.ExtProcPerRoute", "disabled": True}
    route = {
        "name": "r",
        "match": {"prefix": "/", "runtime_fraction": {"default_value": {"numerator": 5}}},
        "typed_per_filter_config": {"envoy.filters.http.ext_proc": per_route},
    }
    path = tmp_path / "envoy.yaml"
    path.write_text(json.dumps(config([{"domains": ["*"], "routes": [route]}])))
    matched = find_route(path, Request(Headers.of({":path": "/", ":authority": "a"})), NAME)
    assert matched.off
    assert any("runtime_fraction" in note for note in matched.notes)


def test_the_key_may_be_in_the_routes_metadata(tmp_path: Path) -> None:
    route = {"match": {"prefix": "/"}, "metadata": {"filter_metadata": {"ns": {"k": "shop"}}}}
    path = tmp_path / "envoy.yaml"
    path.write_text(json.dumps(config([{"domains": ["*"], "routes": [route]}])))
    place = RouteKey(["metadata:ns:k"])
    assert find_route(path, Request(Headers.of({":path": "/", ":authority": "a"})), place).key == "shop"
