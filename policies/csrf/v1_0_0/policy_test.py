"""csrf through the test kit: whose requests get through, whatever headers a page or a program makes up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.testing import Outcome, load_policy, request, run

TRUSTED = "https://admin.example.com"
HOST = "api.example.test"


def policy(**parameters: Any) -> Policy:
    return load_policy(__file__, {"trusted_origins": [TRUSTED], **parameters})


def sent(subject: Policy, method: str = "POST", authority: str = HOST, **headers: str) -> Outcome:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return run(subject, request(method, "/", headers=named, authority=authority))


def why(outcome: Outcome) -> str:
    assert (outcome.status, outcome.reached_upstream) == (403, False)
    assert outcome.immediate is not None
    assert b"csrf" not in (outcome.body or b"")
    return outcome.immediate.details


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_methods_that_change_nothing_pass(method: str) -> None:
    assert sent(policy(), method, origin="https://evil.example", sec_fetch_site="cross-site").reached_upstream


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "CONNECT", "TRACE", "get", "PROPFIND"])
def test_all_others_are_looked_at(method: str) -> None:
    assert why(sent(policy(), method, sec_fetch_site="cross-site")) == "csrf_cross_origin"


def test_a_page_of_another_origin_opens_no_web_socket() -> None:
    evil = {"origin": "https://evil.example", "upgrade": "websocket", "connection": "upgrade"}
    assert why(sent(policy(), "GET", **evil)) == "csrf_cross_origin"
    assert sent(policy(), "GET", **{**evil, "origin": f"https://{HOST}"}).reached_upstream


@pytest.mark.parametrize(
    ("site", "origin", "passes"),
    [
        ("same-origin", None, True),
        ("same-origin", "null", True),  # a page whose referrer policy hides where it is
        ("none", None, True),
        ("same-site", "https://other.example.test", False),
        ("cross-site", None, False),
        ("cross-site", "null", False),
        ("cross-site", f"https://{HOST}", False),
        ("cross-site", TRUSTED, True),
        ("same-site", TRUSTED, True),
        ("Same-Origin", None, False),
        ("something-new", None, False),
        ("cross-site,cross-site", TRUSTED, True),
    ],
)
def test_what_the_browser_says_of_the_site_counts_first(site: str, origin: str | None, passes: bool) -> None:
    headers = {"sec_fetch_site": site} | ({} if origin is None else {"origin": origin})
    assert sent(policy(), **headers).reached_upstream is passes


@pytest.mark.parametrize(
    ("origin", "authority", "passes"),
    [
        (f"https://{HOST}", HOST, True),
        (f"http://{HOST}", HOST, True),
        (f"https://{HOST}", f"{HOST}:443", True),
        (f"https://{HOST}", "API.example.test.:443", True),
        (f"https://{HOST}:8443", f"{HOST}:8443", True),
        ("https://[2001:db8::1]", "[2001:DB8:0::1]:443", True),
        (f"https://{HOST}:8443", HOST, False),
        (f"https://{HOST}", f"{HOST}:8443", False),
        (f"https://{HOST}.evil.example", HOST, False),
        (f"https://evil{HOST}", HOST, False),
        (f"https://{HOST}/", HOST, False),
        (f"https://a@{HOST}", HOST, False),
        (f"ftp://{HOST}", HOST, False),
        (HOST, HOST, False),
        ("null", HOST, False),
        ("null", "null", False),
        ("https://", "", False),
        (TRUSTED, HOST, True),
        (f"{TRUSTED}:443", HOST, False),
        (f"{TRUSTED}:8443", HOST, False),
        ("http://admin.example.com", HOST, False),
        ("https://x.admin.example.com", HOST, False),
        ("HTTPS://ADMIN.EXAMPLE.COM", HOST, False),
    ],
)  # fmt: skip
def test_older_browsers_say_the_origin(origin: str, authority: str, passes: bool) -> None:
    assert sent(policy(), authority=authority, origin=origin).reached_upstream is passes


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": f"https://evil.example,{TRUSTED}"},
        {"origin": f"{TRUSTED},https://evil.example"},
        {"sec_fetch_site": "same-origin,cross-site"},
        {"sec_fetch_site": "cross-site,same-origin", "origin": TRUSTED},
    ],
)
def test_several_values_that_differ_are_refused(headers: dict[str, str]) -> None:
    assert why(sent(policy(), **headers)) == "csrf_headers_ambiguous"


def test_programs_send_neither_header() -> None:
    assert sent(policy()).reached_upstream
    assert sent(policy(), origin="").reached_upstream
    assert why(sent(policy(without_origin="deny"))) == "csrf_no_origin"
    assert sent(policy(without_origin="deny"), sec_fetch_site="none").reached_upstream
    assert sent(policy(without_origin="deny"), "GET").reached_upstream


def test_an_origin_may_be_given_with_its_scheme_s_own_port() -> None:
    assert sent(
        policy(trusted_origins=[f"{TRUSTED}:443"]), sec_fetch_site="cross-site", origin=TRUSTED
    ).reached_upstream


@given(st.text(max_size=30), st.sampled_from(["", "cross-site", "same-site", "x"]))
def test_no_other_origin_gets_through(origin: str, site: str) -> None:
    headers = {"sec_fetch_site": site} if site else {}
    outcome = sent(policy(), origin=f"https://evil.example{origin}", **headers)
    assert outcome.status == 403


@pytest.mark.parametrize(
    "origin",
    ["null", "https://*.example.com", "app.example.com", "https://App.example.com", "https://a.example.com/", "*"],
)
def test_wrong_origins(origin: str) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(trusted_origins=[TRUSTED, origin])
    assert caught.value.path == "/trusted_origins/1"


@pytest.mark.parametrize(
    "parameters", [{"without_origin": "log"}, {"trusted_origins": TRUSTED}, {"trusted_origins": [""]}]
)
def test_parameters_that_the_schema_rules_out(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="_origin"):
        policy(**parameters)
