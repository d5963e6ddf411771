"""Header maps as Envoy keeps them: which repeated headers become one line, and how mutations apply.

A separate module because a policy that reads only the first line of a header has to meet in its tests what it meets
behind Envoy. Envoy keeps one line of each header it knows ("inline" headers, envoy/http/header_map.h and the
`RegisterCustomInlineHeader` of its filters) and joins more with a comma; HTTP/2 joins the crumbs of `cookie` with "; "
(RFC 9113, 8.2.3); any other header stays as many lines as were sent. These lists are held to what Envoy does by
`integration/runtime_header_lines_test.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

from policy_engine.sdk import Headers, HeaderValue
from policy_engine.sdk.headers import encode_value

HeaderValues = Mapping[str, HeaderValue | Iterable[HeaderValue]]
"""Headers as tests write them: a header with several lines takes a list."""

Line = tuple[str, bytes]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BOTH = _names(
    """:authority :method :path :protocol :scheme :status cache-control connection content-encoding
    content-length content-type keep-alive proxy-connection proxy-status transfer-encoding upgrade via
    x-envoy-attempt-count x-envoy-decorator-operation x-request-id"""
)
_REQUEST = _names(
    """accept accept-encoding access-control-request-headers access-control-request-method
    access-control-request-private-network authentication authorization expect grpc-accept-encoding
    grpc-timeout if-match if-modified-since if-none-match if-range if-unmodified-since origin pragma referer
    te user-agent x-client-trace-id x-envoy-downstream-service-cluster x-envoy-downstream-service-node
    x-envoy-expected-rq-timeout-ms x-envoy-external-address x-envoy-force-trace
    x-envoy-hedge-on-per-try-timeout x-envoy-internal x-envoy-ip-tags x-envoy-is-timeout-retry
    x-envoy-max-retries x-envoy-original-path x-envoy-original-url x-envoy-retriable-header-names
    x-envoy-retriable-status-codes x-envoy-retry-grpc-on x-envoy-retry-on x-envoy-upstream-alt-stat-name
    x-envoy-upstream-rq-per-try-timeout-ms x-envoy-upstream-rq-timeout-alt-response
    x-envoy-upstream-rq-timeout-ms x-envoy-upstream-stream-duration-ms x-forwarded-client-cert
    x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto"""
)
_RESPONSE = _names(
    """access-control-allow-credentials access-control-allow-headers access-control-allow-methods
    access-control-allow-origin access-control-allow-private-network access-control-expose-headers
    access-control-max-age age date etag expires grpc-message grpc-status last-modified location server vary
    x-envoy-degraded x-envoy-immediate-health-check-fail x-envoy-ratelimited x-envoy-upstream-canary
    x-envoy-upstream-healthchecked-cluster x-envoy-upstream-service-time"""
)


class Part(Enum):
    """The four header maps of an exchange, each with the headers that it keeps in one line."""

    REQUEST_HEADERS = _BOTH | _REQUEST
    REQUEST_TRAILERS = frozenset[str]()
    RESPONSE_HEADERS = _BOTH | _RESPONSE
    RESPONSE_TRAILERS = frozenset({"grpc-message", "grpc-status"})


def lines_of(values: HeaderValues) -> list[Line]:
    """Return headers as tests write them line by line."""
    return [
        (name.lower(), encode_value(one))
        for name, many in values.items()
        for one in ([many] if isinstance(many, str | bytes) else many)
    ]


class HeaderLines:
    """One header map as Envoy has it: lines in order, names in lower case, known headers in one line."""

    __slots__ = ("_lines", "_one_line")

    def __init__(self, part: Part, lines: Iterable[tuple[str, HeaderValue]] = ()) -> None:
        self._one_line = part.value
        self._lines: list[Line] = []
        for name, value in lines:
            self.add(name, value)

    def add(self, name: str, value: HeaderValue) -> None:
        """Add a line, or what it says to the line that is there."""
        name, raw = name.lower(), encode_value(value)
        delimiter = b"; " if name == "cookie" else b"," if name in self._one_line else None
        if delimiter is None:
            self._lines.append((name, raw))
            return
        at = next((at for at, line in enumerate(self._lines) if line[0] == name), None)
        if at is None:
            self._lines.append((name, raw))
        elif raw:
            there = self._lines[at][1]
            self._lines[at] = (name, there + delimiter + raw if there else raw)

    def set(self, name: str, value: HeaderValue) -> None:
        """Put one line in the place of all of that name."""
        self.remove(name)
        self.add(name, value)

    def remove(self, name: str) -> None:
        """Drop every line of that name."""
        self._lines = [line for line in self._lines if line[0] != name.lower()]

    def mutate(self, mutation: Any) -> None:
        """Apply a `HeaderMutation` (envoy/service/ext_proc/v3/external_processor.proto): removals come first."""
        for name in mutation.remove_headers:
            self.remove(name)
        for one in mutation.set_headers:
            change = self.add if one.append.value else self.set
            change(one.header.key, one.header.raw_value)

    def view(self) -> Headers:
        """Return the lines as a policy would see them."""
        return Headers(list(self._lines))

    def fill(self, header_map: Any) -> None:
        """Add the lines to an `envoy.config.core.v3.HeaderMap`."""
        for name, raw in self._lines:
            header_map.headers.add(key=name, raw_value=raw)

    def __iter__(self) -> Iterator[Line]:
        return iter(self._lines)

    def __contains__(self, name: str) -> bool:
        return any(line[0] == name for line in self._lines)
