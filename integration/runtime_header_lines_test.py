"""The test kit joins repeated headers as Envoy does: every header it knows of, and many it does not, sent twice."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from integration.harness.chain_file import policy
from integration.harness.exchange import Answer, HeaderList
from integration.runtime_stack import Runtime, started
from policy_engine.kernel.header_lines import HeaderLines, Part


def _names(text: str) -> set[str]:
    return set(text.split())


# Not taken from the table, which may lack one.
COMMON = _names(
    """
    accept accept-charset accept-encoding accept-language accept-ranges access-control-allow-credentials
    access-control-allow-headers access-control-allow-methods access-control-allow-origin
    access-control-allow-private-network access-control-expose-headers access-control-max-age
    access-control-request-headers access-control-request-method access-control-request-private-network age
    allow alt-svc authentication authorization baggage cache-control connection content-disposition
    content-encoding content-language content-length content-location content-range content-security-policy
    content-type date digest etag expect expires forwarded from grpc-accept-encoding grpc-message grpc-status
    grpc-timeout if-match if-modified-since if-none-match if-range if-unmodified-since keep-alive
    last-event-id last-modified link location origin pragma prefer priority proxy-authenticate
    proxy-authorization proxy-connection proxy-status range referer retry-after sec-fetch-mode
    sec-websocket-protocol server server-timing set-cookie strict-transport-security te traceparent tracestate
    trailer transfer-encoding upgrade upgrade-insecure-requests user-agent vary via warning www-authenticate
    x-api-key x-b3-traceid x-client-trace-id x-content-type-options x-correlation-id x-forwarded-client-cert
    x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-frame-options x-real-ip x-request-id
    x-requested-with x-robots-tag x-signature
    """
)
_FRAMING = {"connection", "content-length", "keep-alive", "te", "transfer-encoding", "upgrade", "expect"}
_NAMES = sorted(
    name
    for name in {*Part.REQUEST_HEADERS.value, *Part.RESPONSE_HEADERS.value, *COMMON} - _FRAMING
    if not name.startswith(":")
)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with started({"shown": [policy("headers-seen", "v1.0.0", {})]}, transport="native") as running:
        yield running


def kept(part: Part, lines: HeaderList) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in HeaderLines(part, lines):
        found.setdefault(name, []).append(value.decode())
    return found


def shown(body: bytes, names: set[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in json.loads(body):
        if name in names:
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("part", [Part.REQUEST_HEADERS, Part.RESPONSE_HEADERS])
def test_repeated_headers_come_as_the_kit_sends_them(runtime: Runtime, part: Part) -> None:
    disagree: dict[str, list[str]] = {}
    for first in range(0, len(_NAMES), 20):
        names = _NAMES[first : first + 20]
        lines = [(name, value) for value in ("1", "", "2") for name in names]
        if part is Part.REQUEST_HEADERS:
            reply = runtime.send("/shown/", headers=[("x-show", "request"), *lines])
        else:
            runtime.upstream.answer_with(Answer.of(headers=lines))
            reply = runtime.send("/shown/")
        expected, found = kept(part, lines), shown(reply.body, set(names))
        # What Envoy keeps for itself or removes cannot be compared.
        disagree |= {name: found[name] for name in names if len(found.get(name, ())) and found[name] != expected[name]}
    own = {"x-request-id", "x-forwarded-for", "x-forwarded-proto", "server", "date", "x-envoy-upstream-service-time"}
    assert {name: lines for name, lines in disagree.items() if name not in own or len(lines) > 1} == {}


def test_the_crumbs_of_cookie_are_joined_when_they_come_by_http2(runtime: Runtime) -> None:
    lines = [("cookie", "a=1"), ("cookie", "b=2")]
    runtime.upstream.answer_with(Answer.of(headers=lines))
    assert (
        shown(runtime.send("/shown/").body, {"cookie"})
        == kept(Part.RESPONSE_HEADERS, lines)
        == {"cookie": ["a=1; b=2"]}
    )
