"""What a client gets when the engine refuses, what the log has of it, and what it costs however many come."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest

from policy_engine.kernel import body_phase, phases, session
from policy_engine.kernel.nearest_names import NearestNames
from policy_engine.sdk import ImmediateResponse, Policy, Request, Response
from policy_engine.sdk.repeated_lines import BURST, RepeatedLines
from policy_engine.worker.chains import executor
from testsupport.chains import engine, settle
from testsupport.envoy_messages import Reply, body, parse, request_headers, response_headers

IDENTIFIED = [("x-request-id", "0b9e-77")]


@pytest.fixture(autouse=True)
def _no_lines_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (executor, session, phases, body_phase):
        monkeypatch.setattr(module, "repeated", RepeatedLines(logging.getLogger("policy_engine.refusals")))


class Fails(Policy):
    def on_request_headers(self, request: Request) -> None:
        raise RuntimeError("secret detail")


class Reads(Policy):
    def on_request_body(self, request: Request) -> None:
        return None

    def on_response_body(self, request: Request, response: Response) -> None:
        return None


class Denies(Policy):
    def on_request_headers(self, request: Request) -> ImmediateResponse:
        return ImmediateResponse(403)


class Teapot(Policy):
    failure_status = 418

    def on_request_headers(self, request: Request) -> None:
        raise RuntimeError


class Silent(Policy):
    failure_status = 204

    def on_request_headers(self, request: Request) -> None:
        raise RuntimeError


def refusal(made: Any, *messages: bytes) -> Any:
    one = made.session()
    for message in messages:
        reply = Reply.FromString(settle(one.receive(message)))
    return reply.immediate_response


def headers_of(reply: Any) -> dict[str, bytes]:
    return {one.header.key: one.header.raw_value for one in reply.headers.set_headers}


GZIP = [*IDENTIFIED, ("content-encoding", "gzip")]
CASES: dict[str, tuple[Any, list[bytes], int]] = {
    "failure": (engine(Fails), [request_headers(pairs=IDENTIFIED)], 500),
    "own status": (engine(Teapot), [request_headers(pairs=IDENTIFIED)], 418),
    "unmapped": (engine(Fails), [request_headers("other", IDENTIFIED)], 500),
    "too large": (
        engine(Reads, body_limit=10),
        [request_headers(pairs=[*IDENTIFIED, ("content-length", "11")], end=False)],
        413,
    ),
    "undecodable": (engine(Reads), [request_headers(pairs=GZIP, end=False), body("request", b"x")], 415),
    "response": (
        engine(Reads),
        [
            request_headers(pairs=IDENTIFIED),
            response_headers(200, [("content-encoding", "gzip")]),
            body("response", b"x"),
        ],
        502,
    ),
    "headers": (engine(Fails, header_count=2), [request_headers(pairs=IDENTIFIED)], 431),
}


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_has_a_small_body_with_the_id_that_the_log_has(case: str, caplog: pytest.LogCaptureFixture) -> None:
    made, messages, status = CASES[case]
    with caplog.at_level(logging.INFO):
        reply = refusal(made, *messages)
    problem = json.loads(reply.body)
    assert reply.status.code == status
    assert (problem["status"], problem["request_id"]) == (status, "0b9e-77")
    assert headers_of(reply) == {"x-request-id": b"0b9e-77", "content-type": b"application/problem+json"}
    assert len(reply.body) < 300
    assert b"secret" not in reply.body
    assert "0b9e-77" in {record.__dict__.get("request_id") for record in caplog.records}


def test_what_a_policy_denies_without_a_body_has_the_same() -> None:
    reply = refusal(engine(Denies), request_headers(pairs=IDENTIFIED))
    assert json.loads(reply.body) == {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "request_id": "0b9e-77",
    }


def test_a_status_without_content_stays_without() -> None:
    reply = refusal(engine(Silent), request_headers(pairs=IDENTIFIED))
    assert (reply.status.code, reply.body, headers_of(reply)) == (204, b"", {"x-request-id": b"0b9e-77"})


@pytest.mark.parametrize("identifier", ["", "x" * 200, "a\x01b", "é"])
def test_an_id_that_is_none_is_left_out(identifier: str) -> None:
    reply = refusal(engine(Fails), request_headers(pairs=[("x-request-id", identifier)]))
    assert "request_id" not in json.loads(reply.body)


def test_a_grpc_client_gets_a_line() -> None:
    reply = refusal(engine(Fails), request_headers(pairs=[*IDENTIFIED, ("content-type", "application/grpc")]))
    assert reply.body == b"Internal Server Error; request id 0b9e-77"
    assert (reply.grpc_status.status, headers_of(reply)) == (2, {"x-request-id": b"0b9e-77"})


@pytest.mark.parametrize("case", ["failure", "unmapped", "too large", "undecodable"])
def test_lines_that_come_with_every_request_are_bounded(case: str, caplog: pytest.LogCaptureFixture) -> None:
    made, messages, _ = CASES[case]
    with caplog.at_level(logging.INFO):
        for _ in range(300):
            refusal(made, *messages)
    assert BURST <= len([one for one in caplog.records if one.name == "policy_engine.refusals"]) <= BURST + 30


@pytest.mark.parametrize("shape", ["httproute/shop/orders-{}", "r{}", "{}/very/long/" + "segment/" * 20])
def test_finding_near_names_does_not_grow_with_their_number(shape: str) -> None:
    def seconds(count: int) -> float:
        names = NearestNames([shape.format(number) for number in range(count)])
        names.of("warm")
        best = []
        for turn in range(5):
            began = time.process_time()
            names.of(shape.format(f"{count // 2}x{turn}"))
            best.append(time.process_time() - began)
        return min(best)

    few, many = seconds(1000), seconds(32_000)
    assert many < 5 * few + 0.01, f"{few:.4f} s of 1,000, {many:.4f} s of 32,000"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("shop-order", "shop-orders"),
        ("shp-orders", "shop-orders"),
        ("shop_orders", "shop-orders"),
        ("chop-orders", "shop-orders"),
    ],
)
def test_a_misspelt_name_is_found_among_thousands(wrong: str, right: str) -> None:
    names = NearestNames([*(f"route-{number}" for number in range(3000)), right, "shop-carts"])
    assert right in names.of(wrong)
    assert names.of(wrong) is names.of(wrong)


def test_pass_unmapped_costs_no_line(caplog: pytest.LogCaptureFixture) -> None:
    made = engine(Fails, pass_unmapped=True)
    assert parse(made.session().receive(request_headers("other"))).HasField("request_headers")
    assert not caplog.records
