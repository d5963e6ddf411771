"""Who gets in by address; the lists are sorted ranges, so that a long one costs no more than a short one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
)

from policy_engine.sdk import ImmediateResponse, ParameterError, Parameters, Policy, Request

Address = IPv4Address | IPv6Address

_MAPPED = IPv6Network("::ffff:0:0/96")
"""IPv4 addresses in IPv6 form (RFC 4291, 2.5.5.2)."""


class IpAllow(Policy):
    """Refuses who is on the deny list, not on the allow list, or has no address that can be trusted."""

    def __init__(self, parameters: Parameters) -> None:
        self._allow = _Ranges(parameters["allow"], "/allow") if "allow" in parameters else None
        self._deny = _Ranges(parameters.get("deny", ()), "/deny")
        self._hops = parameters.get("trusted_hops", 0)
        status = parameters.get("status", 403)
        self._refused = ImmediateResponse(status, details="ip_not_allowed")
        self._unknown = ImmediateResponse(status, details="ip_unknown")

    def on_request_headers(self, request: Request) -> ImmediateResponse | None:
        """Look the address up."""
        address = _parse(self._text(request))
        if address is None:
            return self._unknown
        if address in self._deny or not (self._allow is None or address in self._allow):
            return self._refused
        return None

    def _text(self, request: Request) -> str:
        if not self._hops:
            return request.client_address
        entries = ",".join(request.headers.get_all("x-forwarded-for")).split(",")
        return entries[-self._hops].strip() if len(entries) >= self._hops else ""


class _Ranges:
    """A set of networks, as sorted first and last addresses of either family."""

    def __init__(self, networks: Sequence[str], path: str) -> None:
        parsed: list[IPv4Network | IPv6Network] = []
        for index, text in enumerate(networks):
            try:
                parsed.append(_network(text))
            except ValueError as error:
                raise ParameterError(f"not a network or address: {error}", f"{path}/{index}") from None
        self._bounds = {
            4: _bounds(collapse_addresses(one for one in parsed if isinstance(one, IPv4Network))),
            6: _bounds(collapse_addresses(one for one in parsed if isinstance(one, IPv6Network))),
        }

    def __contains__(self, address: Address) -> bool:
        first, last = self._bounds[address.version]
        number = int(address)
        index = bisect_right(first, number) - 1
        return index >= 0 and number <= last[index]


def _network(text: str) -> IPv4Network | IPv6Network:
    """Return the network; one of IPv4 addresses in IPv6 form is that of IPv4. Raises ValueError."""
    if "%" in text:
        raise ValueError(f"{text!r} names an interface of one machine; leave out what begins with %")
    found = ip_network(text)
    if isinstance(found, IPv6Network) and found.subnet_of(_MAPPED):
        # Addresses of clients in this form are looked up as IPv4, and would never be found here.
        return IPv4Network((int(found.network_address) & 0xFFFF_FFFF, found.prefixlen - _MAPPED.prefixlen))
    return found


def _bounds(merged: Iterable[IPv4Network | IPv6Network]) -> tuple[list[int], list[int]]:
    ordered = sorted((int(one.network_address), int(one.broadcast_address)) for one in merged)
    return [first for first, _ in ordered], [last for _, last in ordered]


def _parse(text: str) -> Address | None:
    """Return the address in `text`, without the port that some proxies add; None when there is none."""
    try:
        address = ip_address(text)
    except ValueError:
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdecimal():
            host = text
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            return None  # an IPv6 address without brackets, or no address at all
        try:
            address = ip_address(host)
        except ValueError:
            return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped  # ::ffff:192.0.2.1 must not get past a rule for 192.0.2.1
    return address
