"""mtls-identity through the test kit: whose certificates get in, as attributes tell them and as proxies write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError, Policy, Request
from policy_engine.sdk.testing import Outcome, load_policy, request, run

ORDERS = "spiffe://cluster.local/ns/shop/sa/orders"
HASH = "468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688"
SUBJECT = "/C=US/ST=CA/L=San Francisco/OU=Lyft/CN=Test Client"
XFCC = f'By=http://frontend.lyft.com;Hash={HASH};Subject="{SUBJECT}";URI={ORDERS};DNS=shop.test;DNS=Other.test'


def policy(**parameters: Any) -> Policy:
    return load_policy(__file__, parameters)


def shown(uri: str = ORDERS, **more: Any) -> Request:
    attributes: dict[str, Any] = {"connection.mtls": True, "connection.uri_san_peer_certificate": uri}
    return request(attributes=attributes | {f"connection.{name}": value for name, value in more.items()})


def written(*lines: str) -> Request:
    return request(headers={"x-forwarded-client-cert": list(lines)})


def why(outcome: Outcome) -> str:
    assert (outcome.status, outcome.reached_upstream) == (403, False)
    assert "mtls" not in outcome.metadata
    assert outcome.immediate is not None
    return outcome.immediate.details


def test_what_the_certificate_says_is_there_for_others() -> None:
    asked = shown(
        subject_peer_certificate="CN=orders",
        dns_san_peer_certificate="Shop.test",
        sha256_peer_certificate_digest=HASH.upper(),
    )
    facts = {"subject": "CN=orders", "sha256": HASH, "uris": [ORDERS], "dns_names": ["shop.test"]}
    assert run(policy(), asked).metadata["mtls"] == facts
    facts = {"subject": SUBJECT, "sha256": HASH, "uris": [ORDERS], "dns_names": ["shop.test", "other.test"]}
    assert run(policy(source="xfcc"), written(XFCC)).metadata["mtls"] == facts


@pytest.mark.parametrize(
    "attributes", [{}, {"connection.mtls": False}, {"connection.uri_san_peer_certificate": ORDERS}]
)
def test_no_certificate_no_entry(attributes: dict[str, Any]) -> None:
    asked = request(attributes=attributes, headers={"x-forwarded-client-cert": XFCC})
    assert why(run(policy(), asked)) == "mtls_no_certificate"


@pytest.mark.parametrize(
    ("allow", "uri", "passes"),
    [
        ({"uris": [ORDERS]}, ORDERS, True),
        ({"uris": [ORDERS]}, ORDERS + "2", False),
        ({"uris": ["spiffe://cluster.local/ns/shop/*"]}, ORDERS, True),
        ({"uris": ["spiffe://cluster.local/ns/shop/*"]}, "spiffe://cluster.local/ns/shop2/sa/orders", False),
        ({"uris": ["spiffe://cluster.local/ns/shop/*"]}, "spiffe://cluster.local/ns/shop/../admin/sa/x", False),
        ({"uris": ["spiffe://cluster.local/ns/shop/*"]}, "spiffe://cluster.local/ns/shop/..", False),
        ({"uris": ["spiffe://cluster.local/ns/shop/*"]}, "spiffe://cluster.local/ns/shop/%2e%2e/x", False),
        ({"uris": ["spiffe://cluster.local/*"]}, "spiffe://cluster.local.evil/ns/shop", False),
        ({"dns_names": ["shop.test"]}, ORDERS, False),
        ({"dns_names": ["shop.test"], "uris": [ORDERS]}, ORDERS, True),
    ],
)
def test_who_gets_in_by_uri(allow: dict[str, Any], uri: str, passes: bool) -> None:
    outcome = run(policy(allow=allow), shown(uri))
    assert outcome.reached_upstream is passes
    assert passes or why(outcome) == "mtls_not_allowed"
    assert run(policy(source="xfcc", allow=allow), written(f"Hash=00;URI={uri}")).reached_upstream is passes


@pytest.mark.parametrize(
    ("allow", "passes"),
    [
        ({"dns_names": ["OTHER.test"]}, True),
        ({"dns_names": ["test"]}, False),
        ({"subjects": [SUBJECT]}, True),
        ({"subjects": [SUBJECT.lower()]}, False),
        ({"sha256": [":".join(HASH[at : at + 2].upper() for at in range(0, 64, 2))]}, True),
        ({"sha256": ["0" * 64]}, False),
    ],
)
def test_who_gets_in_by_name_subject_and_fingerprint(allow: dict[str, Any], passes: bool) -> None:
    assert run(policy(source="xfcc", allow=allow), written(XFCC)).reached_upstream is passes


def test_only_what_trusted_proxies_wrote_counts() -> None:
    forged, proxy = f"Hash={HASH};URI=spiffe://cluster.local/admin", "Hash=01;URI=spiffe://cluster.local/proxy"
    subject = policy(source="xfcc")
    for asked in (written(f"{forged},{XFCC}"), written(forged, XFCC)):
        assert run(subject, asked).metadata["mtls"]["uris"] == [ORDERS]
    behind_two = policy(source="xfcc", trusted_hops=2)
    assert run(behind_two, written(f"{forged},{XFCC},{proxy}")).metadata["mtls"]["uris"] == [ORDERS]
    assert why(run(behind_two, written(proxy))) == "mtls_no_certificate"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "no_certificate"),
        ("By=http://frontend", "no_certificate"),
        ("Hash=", "no_certificate"),
        ("Hash", "xfcc_malformed"),
        (f'Hash={HASH};Subject="CN=a', "xfcc_malformed"),
        (f"Hash={HASH};Hash=00", "xfcc_malformed"),
        ('Subject="a";Subject="b"', "xfcc_malformed"),
        (f"Hash={HASH};=;", "xfcc_malformed"),
        (f"Hash={HASH};" + "DNS=a;" * 200, "xfcc_malformed"),
    ],
)
def test_headers_that_say_nothing_or_two_things(value: str, reason: str) -> None:
    assert why(run(policy(source="xfcc"), written(value))) == f"mtls_{reason}"


def test_quoted_values_hold_what_would_end_them() -> None:
    asked = written(f'Hash={HASH};Subject="CN=a\\"b,URI={ORDERS};DNS=evil"')
    facts = run(policy(source="xfcc"), asked).metadata["mtls"]
    assert (facts["subject"], facts["uris"], facts["dns_names"]) == (f'CN=a"b,URI={ORDERS};DNS=evil', [], [])


@given(st.text(max_size=60))
def test_no_subject_that_a_client_chose_makes_it_somebody_else(text: str) -> None:
    escaped = text.encode("utf-8", "replace").decode().replace("\\", "\\\\").replace('"', '\\"').replace("\0", "")
    asked = written(f'Hash=00;Subject="{escaped}"')
    assert run(policy(source="xfcc", allow={"uris": [ORDERS]}), asked).status == 403


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"allow": {"uris": [ORDERS, "spiffe://a/*/b"]}}, "/allow/uris/1"),
        ({"allow": {"uris": ["spiffe://a*"]}}, "/allow/uris/0"),
        ({"allow": {"uris": ["/*"]}}, "/allow/uris/0"),
        ({"allow": {"uris": ["orders"]}}, "/allow/uris/0"),
        ({"allow": {"sha256": ["00"]}}, "/allow/sha256/0"),
        ({"trusted_hops": 2}, "/trusted_hops"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(**parameters)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "parameters", [{"source": "header"}, {"allow": {}}, {"allow": {"uris": []}}, {"trusted_hops": 0}]
)
def test_parameters_that_the_schema_rules_out(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="/"):
        policy(**parameters)
