"""Who a request is counted for; the answer is a digest, so that no credential gets into a store."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from policy_engine.sdk import ParameterError, Parameters, Request, digest_key, header_name, list_members

Part = Callable[[Request], str | None]
"""Gives one part of the key, None when the request lacks it."""

_WITH_COMMAS = frozenset(("cookie", "user-agent", "forwarded", "via", "x-forwarded-for"))
"""Headers whose one value may hold commas, or that are lists, beside all that begin with `accept`."""

_ADDRESS: Sequence[Parameters] = [{"source": "client_address"}]


class ClientKey:
    """The digest of all parts of the key, of one counter; raises ParameterError."""

    def __init__(self, parameters: Parameters) -> None:
        entries = parameters.get("key", _ADDRESS)
        self._parts = [_SOURCES[entry["source"]](entry, f"/key/{index}") for index, entry in enumerate(entries)]
        self._counter = parameters.get("counter")
        self.identity = json.dumps([_plain(entry) for entry in entries], sort_keys=True)
        """Says who is counted: equal for policies that tell clients apart by the same."""

    def of(self, request: Request) -> str | None:
        """Return the digest; None when a part is missing."""
        parts = [part(request) for part in self._parts]
        return None if None in parts else self._digest(request, parts)

    def missing(self, request: Request) -> str:
        """Return the digest that all requests without a whole key share; no client can have it."""
        return self._digest(request, None)

    def counter(self, request: Request) -> str:
        """Return what the counters of all clients of this policy have in common: a name, or else the route."""
        return request.route if self._counter is None else self._counter

    def _digest(self, request: Request, parts: Sequence[str | None] | None) -> str:
        counter = self.counter(request)
        return digest_key(counter) if parts is None else digest_key(counter, *parts)


def _plain(entry: Parameters) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, list | tuple) else value for name, value in entry.items()}


def _client_address(entry: Parameters, _: str) -> Part:
    hops, prefix = entry.get("trusted_hops", 0), entry.get("ipv6_prefix", 64)

    def part(request: Request) -> str | None:
        if not hops:
            return _network(request.client_address, prefix)
        entries = ",".join(request.headers.get_all("x-forwarded-for")).split(",")
        return _network(entries[-hops].strip(), prefix) if len(entries) >= hops else None

    return part


def _network(text: str, prefix: int) -> str | None:
    """Return the address, for IPv6 its network, without the port that some proxies add; None if there is none."""
    host = text
    if text.startswith("["):
        host = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        host = text.partition(":")[0]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ip_network((address, prefix), strict=False))
    return str(address)


def _header(entry: Parameters, where: str) -> Part:
    try:
        name = header_name(entry["name"])
    except ValueError as error:
        raise ParameterError(str(error), f"{where}/name") from None

    def part(request: Request) -> str | None:
        values = request.headers.get_all(name)
        if name in _WITH_COMMAS or name.startswith("accept"):
            return json.dumps(list_members(values)) if any(values) else None
        # Who sends "a,b", or two lines, would be a client of its own here and a known one for the upstream.
        members = set(list_members(values))
        return members.pop() if len(members) == 1 else None

    return part


def _metadata(entry: Parameters, _: str) -> Part:
    path = tuple(entry["path"])

    def part(request: Request) -> str | None:
        found: Any = request.metadata
        for name in path:
            if not isinstance(found, Mapping) or name not in found:
                return None
            found = found[name]
        if found is None or found == "":
            return None
        try:
            return json.dumps(found, sort_keys=True)
        except (TypeError, ValueError, RecursionError):
            return None  # not data: nothing that names a client

    return part


def _route(_: Parameters, __: str) -> Part:
    return lambda request: request.route


def _constant(entry: Parameters, _: str) -> Part:
    value: str = entry["value"]
    return lambda request: value


_SOURCES: Mapping[str, Callable[[Parameters, str], Part]] = {
    "client_address": _client_address,
    "header": _header,
    "metadata": _metadata,
    "route": _route,
    "constant": _constant,
}
