"""ip-allow through the test kit, with the `ipaddress` module as second opinion."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError
from policy_engine.sdk.testing import load_policy, request, run


def status(parameters: dict[str, Any], address: str = "", forwarded: str | list[str] | None = None) -> int:
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    return run(load_policy(__file__, parameters), request(client_address=address, headers=headers)).status


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.0", 200),
        ("192.0.2.255", 200),
        ("192.0.3.0", 403),
        ("192.0.1.255", 403),
        ("192.0.2.66", 403),
        ("198.51.100.7", 200),
        ("198.51.100.8", 403),
        ("2001:db8::1", 200),
        ("2001:db8:0:1::", 403),
        ("::ffff:192.0.2.1", 200),
        ("::ffff:192.0.2.66", 403),
        ("192.0.2.1:1234", 200),
        ("[2001:db8::1]:1234", 200),
        ("", 403),
        ("localhost", 403),
        ("192.0.2.1%eth0", 403),
        ("0300.0.2.1", 403),
    ],
)
def test_allow_and_deny(address: str, expected: int) -> None:
    lists = {"allow": ["192.0.2.0/24", "198.51.100.7", "2001:db8::/64"], "deny": ["192.0.2.66"]}
    assert status(lists, address) == expected


def test_deny_alone_lets_the_others_in_but_nobody_without_an_address() -> None:
    assert status({"deny": ["192.0.2.0/24"]}, "198.51.100.1") == 200
    assert status({"deny": ["192.0.2.0/24"]}, "192.0.2.1") == 403
    assert status({"deny": ["192.0.2.0/24"]}, "unix") == 403


@pytest.mark.parametrize(
    ("hops", "forwarded", "expected"),
    [
        (0, "192.0.2.1", 403),
        (1, "192.0.2.1", 200),
        (1, "192.0.2.1, 203.0.113.9", 403),
        (2, "192.0.2.1, 203.0.113.9", 200),
        (2, "203.0.113.9, 192.0.2.1, 203.0.113.9", 200),
        (2, ["192.0.2.1", "203.0.113.9"], 200),
        (2, "192.0.2.1", 403),
        (3, "192.0.2.1,203.0.113.9", 403),
        (1, "192.0.2.1,", 403),
        (1, None, 403),
    ],
)
def test_only_the_trusted_part_of_x_forwarded_for_counts(hops: int, forwarded: Any, expected: int) -> None:
    assert status({"allow": ["192.0.2.0/24"], "trusted_hops": hops}, "203.0.113.1", forwarded) == expected


def test_the_status_can_be_another() -> None:
    assert status({"allow": ["192.0.2.0/24"], "status": 404}, "203.0.113.1") == 404


NETWORKS = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
        lambda pair: str(ip_network((pair[0] >> (32 - pair[1]) << (32 - pair[1]), pair[1])))
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)
@given(NETWORKS, st.integers(0, 2**32 - 1))
def test_same_as_asking_every_network(networks: list[str], number: int) -> None:
    expected = any(ip_address(number) in ip_network(one) for one in networks)
    assert (status({"allow": networks}, str(ip_address(number))) == 200) is expected


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_text_makes_it_fail(text: str) -> None:
    raw = text.replace("\n", "")
    assert status({"allow": ["192.0.2.0/24"], "trusted_hops": 1}, raw, raw) == 403


@pytest.mark.parametrize(
    "network", ["::ffff:192.0.2.0/120", "::ffff:c000:200/120", "::ffff:192.0.2.66", "::FFFF:0:0/96"]
)
@pytest.mark.parametrize("address", ["192.0.2.66", "::ffff:192.0.2.66", "[::ffff:c000:242]:80"])
def test_ipv4_in_ipv6_form_means_the_same_in_a_list_as_of_a_client(network: str, address: str) -> None:
    assert status({"deny": [network]}, address) == 403
    assert status({"allow": [network]}, address) == 200
    assert status({"deny": [network]}, "2001:db8::1") == 200


@pytest.mark.parametrize(
    "network", ["192.0.2.1/24", "192.0.2.0/33", "example.com", "", "fe80::1%eth0", "::ffff:192.0.2.1/120"]
)
def test_wrong_networks(network: str) -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, {"allow": ["192.0.2.0/24", network]})
    assert caught.value.path == "/allow/1"
