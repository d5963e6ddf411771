"""cors through the test kit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.testing import Outcome, load_policy, request, response, run

APP = "https://app.example.com"
SUBDOMAINS = "https://*.example.org:8443"


def policy(**parameters: Any) -> Policy:
    return load_policy(__file__, {"allow_origins": [APP, SUBDOMAINS], **parameters})


def preflight(subject: Policy, origin: str, method: str = "PUT") -> Outcome:
    return run(subject, request("OPTIONS", "/", headers={"origin": origin, "access-control-request-method": method}))


def test_a_preflight_is_answered_here() -> None:
    subject = policy(allow_methods=["GET", "PUT"], allow_headers=["content-type", "x-a"], allow_credentials=True)
    outcome = preflight(subject, APP)
    assert (outcome.status, outcome.body, outcome.reached_upstream) == (204, b"", False)
    headers = dict(outcome.response.headers.items())
    assert headers == {
        "access-control-allow-origin": APP,
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "GET, PUT",
        "access-control-allow-headers": "content-type, x-a",
        "access-control-max-age": "600",
        "vary": "origin",
        "x-request-id": "test-request",
    }
    assert preflight(subject, APP).immediate is outcome.immediate


def test_a_preflight_of_another_origin_is_refused_and_grants_nothing() -> None:
    outcome = preflight(policy(), "https://evil.example.com")
    assert outcome.status == 403
    assert "access-control-allow-origin" not in outcome.response.headers
    assert outcome.response.headers["vary"] == "origin"


@pytest.mark.parametrize("headers", [{}, {"origin": APP}, {"access-control-request-method": "PUT"}])
def test_other_options_requests_go_upstream(headers: dict[str, str]) -> None:
    assert run(policy(), request("OPTIONS", "/", headers=headers)).reached_upstream


def test_the_response_to_an_allowed_origin() -> None:
    upstream = response(
        headers={"access-control-allow-origin": "*", "access-control-allow-credentials": "true", "vary": "accept"}
    )
    outcome = run(policy(expose_headers=["x-total"]), request(headers={"origin": APP}), upstream)
    headers = outcome.response.headers
    assert headers.get_all("access-control-allow-origin") == (APP,)
    assert headers["access-control-expose-headers"] == "x-total"
    assert "access-control-allow-credentials" not in headers
    assert headers["vary"] == "accept,origin"


@pytest.mark.parametrize("origin", [None, "https://evil.example.com", "null"])
def test_the_response_to_others_grants_nothing_whatever_the_upstream_says(origin: str | None) -> None:
    upstream = response(headers={"access-control-allow-origin": "*", "access-control-allow-credentials": "true"})
    outcome = run(policy(), request(headers={} if origin is None else {"origin": origin}), upstream)
    assert outcome.status == 200
    assert not [name for name in outcome.response.headers if name.startswith("access-control-")]
    assert outcome.response.headers["vary"] == "origin"


def test_all_origins() -> None:
    subject = policy(allow_origins=["*"])
    outcome = run(subject, request(headers={"origin": "https://a.example.net"}))
    assert outcome.response.headers["access-control-allow-origin"] == "*"
    assert "vary" not in outcome.response.headers
    assert preflight(subject, "null").response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (APP, True),
        ("https://a.example.org:8443", True),
        ("https://a-1.b.example.org:8443", True),
        ("https://example.org:8443", False),
        ("https://.example.org:8443", False),
        ("https://a.example.org", False),
        ("http://a.example.org:8443", False),
        ("https://evil.com/.example.org:8443", False),
        ("https://evil.com#.example.org:8443", False),
        ("https://user@a.example.org:8443", False),
        ("https://evilexample.org:8443", False),
        ("HTTPS://APP.EXAMPLE.COM", False),
        ("https://app.example.com.evil.com", False),
        ("https://app.example.com:443", False),
        ("https://app.example.com/", False),
        ("null", False),
        ("", False),
        ("*", False),
    ],
)
def test_origins(origin: str, allowed: bool) -> None:
    assert (preflight(policy(), origin).status == 204) is allowed


@pytest.mark.parametrize("line", [f"{APP},{APP}", f"{APP}, {APP}", f"{APP},"])
def test_one_origin_that_is_repeated_is_one(line: str) -> None:
    outcome = preflight(policy(), line)
    assert (outcome.status, outcome.response.headers["access-control-allow-origin"]) == (204, APP)
    got = run(policy(), request(headers={"origin": line}))
    assert got.response.headers.get_all("access-control-allow-origin") == (APP,)


@pytest.mark.parametrize("origins", ["*", APP])
def test_several_origins_get_no_grant(origins: str) -> None:
    subject = policy(allow_origins=[origins])
    for line in (f"{APP},https://evil.test", f"https://evil.test,{APP}"):
        assert preflight(subject, line).status == 403
        assert "access-control-allow-origin" not in run(subject, request(headers={"origin": line})).response.headers


def test_an_allowed_origin_may_be_written_with_its_scheme_s_own_port() -> None:
    assert preflight(policy(allow_origins=[f"{APP}:443"]), APP).status == 204


@settings(deadline=None)
@given(st.text(max_size=40))
def test_no_text_in_front_of_the_domain_gets_in_but_labels(text: str) -> None:
    outcome = preflight(policy(), f"https://{text}.example.org:8443")
    labels = text.split(".")
    expected = all(label and label.strip("-") == label and set(label) <= LABEL for label in labels)
    assert (outcome.status == 204) is expected


LABEL = set("abcdefghijklmnopqrstuvwxyz0123456789-_")


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"allow_origins": ["*"], "allow_credentials": True}, "/allow_origins"),
        ({"allow_origins": [APP, "https://a.example.com/"]}, "/allow_origins/1"),
        ({"allow_origins": ["app.example.com"]}, "/allow_origins/0"),
        ({"allow_origins": ["https://App.example.com"]}, "/allow_origins/0"),
        ({"allow_origins": ["https://*"]}, "/allow_origins/0"),
        ({"allow_origins": ["https://a.*.example.com"]}, "/allow_origins/0"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(**parameters)
    assert caught.value.path == path
