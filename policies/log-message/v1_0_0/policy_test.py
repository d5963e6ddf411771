"""log-message through the test kit: what is written, and what never is."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.sdk.testing import load_policy, request, response, run


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "policy.log-message")


def facts(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (record,) = caplog.records
    fields: dict[str, Any] = vars(record)["fields"]
    json.dumps(fields).encode()  # must be fit for any formatter
    return fields


def test_a_line_for_each_response(caplog: pytest.LogCaptureFixture) -> None:
    policy = load_policy(__file__, {"message": "orders", "request_headers": ["User-Agent", "x-none"]})
    outcome = run(policy, request("POST", "/a?token=hidden", headers={"user-agent": "curl"}), response(503))
    (record,) = caplog.records
    assert record.getMessage() == "orders: POST /a 503"
    assert (record.levelname, vars(record)["route"], vars(record)["request_id"]) == (
        "INFO",
        "test-route",
        "test-request",
    )
    assert facts(caplog) == {
        "method": "POST",
        "path": "/a",
        "authority": "api.example.test",
        "client_address": "192.0.2.1",
        "status": 503,
        "origin": "upstream",
        "request_headers": {"user-agent": "curl"},
    }
    assert outcome.hooks == ["LogMessage.on_response_headers"]
    assert outcome.steps[0].action is None


def test_both_ends_and_levels(caplog: pytest.LogCaptureFixture) -> None:
    run(load_policy(__file__, {"at": ["request", "response"], "level": "warning"}), request("GET", "/x"))
    assert [record.getMessage() for record in caplog.records] == ["GET /x", "GET /x 200"]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_secrets_are_never_written(caplog: pytest.LogCaptureFixture) -> None:
    policy = load_policy(
        __file__, {"request_headers": ["*"], "response_headers": ["set-cookie", "x-b"], "redact": ["X-Mine"]}
    )
    secret = {"authorization": "hunter2", "cookie": "hunter2", "x-api-key": "hunter2", "x-mine": "hunter2"}
    run(
        policy,
        request("GET", "/?q=hunter2", headers={**secret, "x-a": "1"}),
        response(headers={"set-cookie": "hunter2"}),
    )
    assert "hunter2" not in str([vars(record) for record in caplog.records])
    shown = {"x-a": "1", "x-request-id": "test-request"}
    assert facts(caplog)["request_headers"] == {**dict.fromkeys(secret, "***"), **shown}
    assert facts(caplog)["response_headers"] == {"set-cookie": "***"}


def test_query_and_metadata_when_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    policy = load_policy(__file__, {"query": True, "metadata": ["api_key", "missing"]})
    data = {"api_key": {"client": "mobile", "odd": object(), "deep": [[[[["x"]]]]]}, "jwt": {"sub": "alice"}}
    run(policy, request("GET", "/a?b=1", metadata=data))
    assert facts(caplog)["path"] == "/a?b=1"
    assert facts(caplog)["metadata"] == {"api_key": {"client": "mobile", "odd": "(object)", "deep": [[["(list)"]]]}}


def test_nothing_is_put_together_for_a_level_that_is_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "policy.log-message")
    run(load_policy(__file__, {"request_headers": ["*"]}), request())
    assert not caplog.records


def test_long_values_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    run(load_policy(__file__, {"request_headers": ["x-a"], "max_value_length": 3}), request(headers={"x-a": "12345"}))
    assert facts(caplog)["request_headers"]["x-a"] == "123…"


class Collecting(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_no_bytes_forge_a_line_or_make_it_fail(raw: bytes) -> None:
    handler = Collecting()
    logger = logging.getLogger("policy.log-message")
    logger.addHandler(handler)
    try:
        policy = load_policy(__file__, {"request_headers": ["x-a"], "query": True})
        run(policy, request(headers={":path": b"/" + raw, "x-a": raw}))
    finally:
        logger.removeHandler(handler)
    (record,) = handler.records
    assert record.getMessage().isprintable()
    assert json.dumps(vars(record)["fields"]).encode()
