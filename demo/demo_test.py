"""The demo as a person starts it: what it prints, how it ends, and that it can say no."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from demo.cases import public_route
from demo.outcome import judge
from integration.harness import client
from integration.harness.client import Reply
from integration.harness.exchange import Received
from integration.harness.processes import Process, python_program


def run_once(*arguments: str) -> subprocess.CompletedProcess[str]:
    command, env = python_program("demo", *arguments)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)


def test_once_sends_every_request_and_ends_with_0() -> None:
    done = run_once("--once", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    requests = [event for event in events if event["event"] == "request"]
    assert events[-1] == {"event": "verdict", "sent": len(requests), "failed": 0}
    assert len(requests) >= 12
    assert any("Envoy 1.36.2" in event.get("title", "") for event in events)
    ran = {policy for request in requests for policy in request["policies"]}
    assert ran == {"set-header v1.0.0", "jwt-validation v1.0.0", "jwt-validation v2.0.0", "api-key-validation v1.0.0"}
    assert "Bearer e" not in done.stdout  # no token is printed whole


def test_it_stays_up_until_interrupted_and_leaves_nothing(tmp_path: Path) -> None:
    command, env = python_program("demo", "--json")
    with Process("demo", command, log_path=tmp_path / "demo.log", env=env) as demo:
        demo.wait_until(lambda: "Still running" in demo.log(), what="up", timeout_s=240)
        facts = _facts(demo.log(), "Still running")
        port = int(facts["Envoy"].rpartition(":")[2])
        assert client.send(port, "GET", "/public").status == 200
        children = _children(demo.pid)
        assert len(children) == 3  # upstream, engine, Envoy
        assert demo.stop(sign=signal.SIGINT, timeout_s=60) == 0, demo.log()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "a process of the demo is still there"
        time.sleep(0.05)
    assert not Path(facts["logs"]).exists()


def test_a_port_that_is_taken_is_an_error_with_its_reason(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run_once("--once", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "Address already in use" in done.stderr


def test_help_has_examples() -> None:
    done = run_once("--help")
    assert (done.returncode, "./bazelw run //:demo -- --once" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("reply", "upstream", "fault"),
    [
        (Reply(503, [("x-served-by", "policy-engine")]), None, "status 503, expected 200"),
        (Reply(200, [("x-served-by", "policy-engine")]), None, "did not reach the upstream"),
        (
            Reply(200, [("x-served-by", "policy-engine")]),
            Received("GET", "/public", [("x-gateway", "old")], "HTTP/1.1"),
            "upstream got x-gateway: ['old'], expected 'new'",
        ),
        (
            Reply(200, [("x-served-by", "policy-engine"), ("x-upstream", "echo")]),
            Received("GET", "/public", [("x-gateway", "new")], "HTTP/1.1"),
            "client got x-upstream: 'echo', expected None",
        ),
    ],
)
def test_an_outcome_that_is_not_as_expected_is_a_fault(reply: Reply, upstream: Received | None, fault: str) -> None:
    outcome = judge(public_route("new", "title"), reply, upstream, [])
    assert any(fault in found for found in outcome.faults)


def _facts(log: str, title: str) -> dict[str, Any]:
    for line in log.splitlines():
        event = json.loads(line)
        if event["event"] == "facts" and event["title"].startswith(title):
            facts: dict[str, Any] = event["facts"]
            return facts
    raise AssertionError(f"no facts with the title {title!r}")


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
