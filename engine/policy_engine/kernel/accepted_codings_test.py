"""What upstreams are told that a client accepts, where policies read the answer whole."""

from __future__ import annotations

import pytest

from policy_engine.sdk import Headers, Policy, Request, RequestMutation, Response
from testsupport.chains import engine, settle
from testsupport.envoy_messages import header_changes, parse, request_headers

BROWSER = "gzip, deflate, br, zstd"


class Reads(Policy):
    def on_response_body(self, request: Request, response: Response) -> None:
        return None


class Sees(Policy):
    seen: tuple[str, ...] = ()

    def on_request_headers(self, request: Request) -> RequestMutation:
        Sees.seen = request.headers.get_all("accept-encoding")
        return RequestMutation(set_headers={"x-seen": "yes"})


def sent(policies: list[type[Policy]], *lines: str) -> Headers:
    """Return the headers that an upstream gets."""
    session = engine(*policies).session()
    given = [("accept-encoding", line) for line in lines]
    reply = parse(settle(session.receive(request_headers("r", given))))
    changed, removed = header_changes(reply.request_headers.response.header_mutation)
    assert not removed
    replaced = {name for name, _, append in changed if not append}
    kept = [(name, value.encode()) for name, value in given if name not in replaced]
    return Headers([*kept, *((name, value) for name, value, _ in changed)])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((BROWSER,), ("gzip, deflate, br",)),
        (("zstd",), ("identity",)),
        (("ZSTD;q=1, GZip;q=0.5",), ("GZip;q=0.5",)),
        (("zstd", "br"), ("br",)),
        (("*",), ("br, deflate, gzip",)),
        (("br;q=0, *;q=0.3",), ("br;q=0, deflate;q=0.3, gzip;q=0.3",)),
        (("dcb, compress, identity;q=0",), ("identity;q=0",)),
    ],
)
def test_what_cannot_be_undone_is_not_accepted(lines: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert sent([Reads], *lines).get_all("accept-encoding") == expected
    assert sent([Sees, Reads], *lines).get_all("accept-encoding") == expected
    assert Sees.seen == expected
    assert sent([Sees, Reads], *lines).get("x-seen") == "yes"


@pytest.mark.parametrize("lines", [(), ("gzip",), ("gzip, br;q=0.1, identity;q=0",), ("x-gzip",), ("",)])
def test_what_can_be_undone_stays_as_it_was_sent(lines: tuple[str, ...]) -> None:
    assert sent([Reads], *lines).get_all("accept-encoding") == lines


def test_where_nobody_reads_the_answer_whole_clients_get_what_they_like() -> None:
    assert sent([Sees], BROWSER).get_all("accept-encoding") == (BROWSER,)
