"""Headers over a limit are refused, on the way there and back (R-09)."""

from __future__ import annotations

from typing import Any

import pytest

from policy_engine.sdk import Policy, Request, Response
from testsupport.chains import engine
from testsupport.envoy_messages import body, parse, request_headers, response_headers


class Tag(Policy):
    def on_request_headers(self, request: Request) -> None:
        pass

    def on_response_headers(self, request: Request, response: Response) -> None:
        pass


HEADER_LIMITS: dict[str, Any] = {"header_count": 8, "header_size": 1024}
WIDE = [(f"x-{number}", "1") for number in range(6)]


@pytest.mark.parametrize(
    ("pairs", "refused"),
    [(WIDE, True), (WIDE[:-2], False), ([("x-a", "x" * 1100)], True), ([("x-a", "x" * 800)], False)],
)
def test_headers_over_a_limit_are_refused(pairs: list[tuple[str, str]], refused: bool) -> None:
    made = engine(Tag, **HEADER_LIMITS)
    # A long message is no offence in itself: attributes do not count.
    long = {"source.address": "x" * 2000}
    reply = parse(made.session().receive(request_headers(pairs=pairs, attributes=long)))
    assert reply.immediate_response.status.code == (431 if refused else 0)
    session = made.session()
    session.receive(request_headers())
    reply = parse(session.receive(response_headers(pairs=[*pairs, *WIDE[:3]] if len(pairs) > 3 else pairs)))
    assert reply.immediate_response.status.code == (502 if refused else 0)
    if refused:
        assert session.receive(body("response", b"late")) is None
        assert made.kernel.statistics.headers_too_large == {"request_headers": 1, "response_headers": 1}


def test_headers_that_no_policy_sees_have_no_limit() -> None:
    assert parse(engine(**HEADER_LIMITS).session().receive(request_headers(pairs=WIDE))).HasField("request_headers")
