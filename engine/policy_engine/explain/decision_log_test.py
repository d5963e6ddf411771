"""One line for each decision that matters, bounded, with nothing secret; the same facts for Envoy."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from policy_engine.explain.decision_log import DecisionLog, PassedRequests
from policy_engine.explain.live import Filter
from policy_engine.explain.recorder import Recorder
from policy_engine.kernel.kernel import Kernel
from policy_engine.kernel.stream import Peer, StreamHandler
from policy_engine.sdk import ImmediateResponse, Policy, Request, RequestMutation
from policy_engine.sdk.repeated_lines import BURST, RepeatedLines
from policy_engine.telemetry import decision_output
from policy_engine.telemetry.decision_output import decision_logger
from policy_engine.telemetry.logs import facts_of
from policy_engine.worker.chains.compiler import Compiler
from policy_engine.worker.chains.spec import PolicySpec
from policy_engine.worker.policies.registry import Registry
from testsupport.chains import chains, define, entry, settle
from testsupport.collector import collector_running
from testsupport.envoy_messages import parse, request_headers

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = [("x-request-id", "id-1"), ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"), ("authorization", "private")]


class Denying(Policy):
    def on_request_headers(self, request: Request) -> ImmediateResponse:
        return ImmediateResponse(403, details="not_you", dynamic_metadata={"own": {"k": 1}})


class DenyingLater(Policy):
    async def on_request_headers(self, request: Request) -> ImmediateResponse:
        await asyncio.sleep(0.02)
        return ImmediateResponse(403, details="not_you")


class Answering(Policy):
    def on_request_headers(self, request: Request) -> ImmediateResponse:
        return ImmediateResponse(204)


class Raising(Policy):
    def on_request_headers(self, request: Request) -> None:
        raise RuntimeError("private")


class Passing(Policy):
    def on_request_headers(self, request: Request) -> RequestMutation:
        return RequestMutation(set_headers={"x-a": "b"})


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger, handler = logging.getLogger("test.decisions"), Lines()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers[:] = [handler]
    yield handler
    logger.handlers[:] = []


def kernel(*entries: PolicySpec | type[Policy], classes: tuple[type[Policy], ...] = ()) -> tuple[Kernel, DecisionLog]:
    log = DecisionLog(logging.getLogger("test.decisions"))
    known = [*(one for one in entries if not isinstance(one, PolicySpec)), *classes]
    compiler = Compiler(Registry([define(one) for one in known]), decisions=log)
    made = Kernel(decisions=log)
    made.activate(compiler.compile(chains(r=entries)))
    return made, log


def ask(handler: StreamHandler, route: str = "r", path: str = "/x?token=private") -> Any:
    reply = parse(settle(handler.receive(request_headers(route, HEADERS, path=path))))
    handler.close()
    return reply


def sent(made: Kernel, **how: Any) -> Any:
    return ask(Recorder(made).handler(Peer()), **how)


def test_a_denial_is_a_line_and_metadata(lines: Lines) -> None:
    reply = sent(kernel(entry(Denying, condition='request.method == "GET"'), classes=(Denying,))[0])
    (record,) = lines.records
    facts = facts_of(record)
    assert record.getMessage() == "request denied with 403 by denying v1.0.0: not_you"
    assert facts.pop("milliseconds") >= 0
    assert facts == {
        "event": "decision",
        "request_id": "id-1",
        "trace_id": TRACE,
        "route": "r",
        "method": "GET",
        "path": "/x",
        "decision": "denied",
        "policy": "denying",
        "policy_version": "v1.0.0",
        "hook": "on_request_headers",
        "condition": 'request.method == "GET"',
        "status": 403,
        "reason": "not_you",
    }
    metadata = MessageToDict(reply.dynamic_metadata)
    assert metadata["own"] == {"k": 1}
    assert {name: metadata["policy_engine"][name] for name in ("decision", "policy", "reason", "status")} == {
        "decision": "denied",
        "policy": "denying",
        "reason": "not_you",
        "status": 403,
    }


def test_the_time_is_that_of_the_hook_also_when_it_waits(lines: Lines) -> None:
    sent(kernel(DenyingLater)[0])
    assert facts_of(lines.records[0])["milliseconds"] >= 15


@pytest.mark.parametrize("mode", ["closed", "open"])
def test_a_failure_is_a_line_whatever_its_mode(lines: Lines, mode: str) -> None:
    sent(kernel(entry(Raising, failure_mode=mode), classes=(Raising,))[0])
    (record,) = lines.records
    facts = facts_of(record)
    assert facts["decision"] == {"closed": "failed", "open": "failed_open"}[mode]
    assert facts["failure"] == "exception"
    assert facts.get("status") == {"closed": 500, "open": None}[mode]
    assert "private" not in json.dumps(facts) + record.getMessage()


def test_what_the_engine_refuses_is_a_line(lines: Lines) -> None:
    made, _ = kernel(Passing)
    reply = sent(made, route="no-such")
    facts = facts_of(lines.records[0])
    assert (facts["decision"], facts["status"], facts["reason"]) == ("denied", 500, "policy_engine:unmapped_route")
    assert (facts["route"], facts["request_id"]) == ("no-such", "id-1")
    assert "policy" not in facts
    assert MessageToDict(reply.dynamic_metadata)["policy_engine"]["reason"] == "policy_engine:unmapped_route"


@pytest.mark.parametrize("policy", [Passing, Answering])
def test_requests_that_pass_are_no_lines_unless_asked_for(lines: Lines, policy: type[Policy]) -> None:
    made, log = kernel(policy)
    sent(made)
    assert lines.records == []
    recorder = Recorder(made, (PassedRequests(log, 1.0, None),))
    recorder.refresh()
    reply = ask(recorder.handler(Peer()))
    facts = facts_of(lines.records[0])
    assert facts["decision"] == ("passed" if policy is Passing else "answered")
    assert facts["policies"][0]["policy"].endswith(" v1.0.0")
    assert (
        next(iter(MessageToDict(reply.dynamic_metadata)["policy_engine"]["policies"])) in facts["policies"][0]["policy"]
    )
    assert "private" not in json.dumps(facts)


def test_a_share_and_a_condition_choose_what_passes(lines: Lines) -> None:
    made, log = kernel(Passing)
    condition = Filter(where='request.path == "/yes"').condition()
    for share in (0.0, 1.0):
        recorder = Recorder(made, (PassedRequests(log, share, condition),))
        recorder.refresh()
        for path in ("/yes", "/no"):
            ask(recorder.handler(Peer()), path=path)
    assert [facts_of(one)["path"] for one in lines.records] == ["/yes"]


def test_lines_of_a_sample_are_not_bounded(lines: Lines) -> None:
    made, log = kernel(Passing)
    recorder = Recorder(made, (PassedRequests(log, 1.0, None),))
    recorder.refresh()
    for _ in range(3 * BURST):
        ask(recorder.handler(Peer()))
    assert len(lines.records) == 3 * BURST
    assert lines.records[0].getMessage() == "request passed"


def test_a_denial_is_one_line_when_passes_are_recorded_too(lines: Lines) -> None:
    made, log = kernel(Denying)
    recorder = Recorder(made, (PassedRequests(log, 1.0, None),))
    recorder.refresh()
    ask(recorder.handler(Peer()))
    assert len(lines.records) == 1


def test_lines_of_a_kind_are_bounded_and_counted(lines: Lines) -> None:
    made, _ = kernel(Denying)
    for _ in range(3 * BURST):
        sent(made)
    assert len(lines.records) == BURST
    for route in ("a", "b"):
        sent(made, route=route)
    assert len(lines.records) == BURST + 2


def test_a_file_that_was_renamed_is_opened_anew(tmp_path: Path) -> None:
    file = tmp_path / "decisions.jsonl"
    logger, close = decision_logger(str(file), "", "s", 0)
    logger.info("one", extra={"event": "decision", "route": "r"})
    file.rename(tmp_path / "old")
    logger.info("two", extra={"event": "decision"})
    close()
    assert json.loads((tmp_path / "old").read_text())["message"] == "one"
    assert json.loads(file.read_text())["message"] == "two"


def test_a_file_that_cannot_be_written_is_said_and_breaks_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    logger, close = decision_logger(str(directory / "decisions.jsonl"), "", "s", 0)
    (directory / "decisions.jsonl").unlink()
    directory.rmdir()
    logger.info("one")
    close()
    assert "decisions.jsonl" in caplog.text


@pytest.mark.parametrize("path", ["not/there/decisions.jsonl", ".", "/dev/full"])
def test_what_cannot_be_written_from_the_start_stops_no_worker(
    tmp_path: Path, path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision_output, "_repeated", RepeatedLines(logging.getLogger("test.repeated")))
    logger, close = decision_logger(str(tmp_path / path), "", "s", 0)
    logger.info("one")
    close()
    said = ("No such file or directory", "Is a directory", "No space left on device")
    assert any(reason in caplog.text for reason in said)


def test_a_directory_that_comes_later_is_written_to(tmp_path: Path) -> None:
    file = tmp_path / "d" / "decisions.jsonl"
    logger, close = decision_logger(str(file), "", "s", 0)
    logger.info("lost")
    file.parent.mkdir()
    logger.info("one\n{}")
    logger.info("two")
    close()
    assert [json.loads(line)["message"] for line in file.read_text().split("\n")[:-1]] == ["one\n{}", "two"]


def test_a_pipe_holds_nobody_up_without_a_reader_or_with_one_that_does_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision_output, "_repeated", RepeatedLines(logging.getLogger("test.repeated")))
    pipe = tmp_path / "decisions"
    os.mkfifo(pipe)
    logger, close = decision_logger(str(pipe), "", "s", 0)
    logger.info("nobody reads this")
    assert "No such device or address" in caplog.text
    with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as reader:
        logger.info("first")
        assert json.loads(reader.readline())["message"] == "first"
        for number in range(2000):  # more than a pipe takes
            logger.info("%d %s", number, "x" * 100)
        assert "Resource temporarily unavailable" in caplog.text
        assert reader.read().count("\n") > 100
        logger.info("read again")
        assert json.loads(reader.read().splitlines()[-1])["message"] == "read again"
    close()


def test_a_collector_gets_log_records() -> None:
    with collector_running() as collector:
        logger, close = decision_logger("otlp", f"http://127.0.0.1:{collector.port}", "engine", 2)
        logger.info("request denied", extra={"event": "decision", "status": 403, "trace_id": TRACE, "policies": [1]})
        close()
        (record,) = collector.logs
    assert record["body"]["stringValue"] == "request denied"
    assert record["traceId"] == TRACE
    attributes = {one["key"]: one["value"] for one in record["attributes"]}
    assert attributes["status"]["intValue"] in ("403", 403)
    assert attributes["event"]["stringValue"] == "decision"
