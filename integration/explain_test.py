"""Why was this request denied: the same answer offline and live, each by one command, for every kind of denial."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from integration.harness import client
from integration.harness.chain_file import Document, policy
from integration.harness.exchange import HeaderList
from integration.harness.processes import python_program
from integration.runtime_stack import TEST_POLICIES, Runtime, document, eventually, generated, scripted
from policy_engine.cli import main

SHIPPED = Path(__file__).parents[1] / "policies"
KEY = "the-key-of-a-partner"
PASSWORD = "correct horse battery"


def misbehaving(how: str, on: str = "request") -> Document:
    return policy("misbehaving", "v1.0.0", {"how": how, "on": on}, timeout="150ms")


def api_key() -> Document:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    return policy("api-key-validation", "v1.0.0", {"keys": [{"client": "partner", "sha256": digest}]})


SCHEMA = policy("json-schema-validation", "v1.0.0", {"request": {"schema": {"type": "object", "required": ["id"]}}})


@dataclass(frozen=True)
class Case:
    """A request, the chain of its route, and who denies it with what for which reason."""

    chain: list[Document]
    status: int
    policy: str
    reason: str
    verdict: str = "denied"
    method: str = "GET"
    headers: HeaderList = field(default_factory=list)
    body: bytes = b""
    in_text: str = ""


CASES = {
    "no-key": Case([api_key()], 401, "api-key-validation v1.0.0", "missing_api_key"),
    "wrong-key": Case(
        [api_key()], 403, "api-key-validation v1.0.0", "wrong_api_key", headers=[("x-api-key", "not-the-secret-key")]
    ),
    "address": Case(
        [policy("ip-allow", "v1.0.0", {"allow": ["203.0.113.0/24"]})], 403, "ip-allow v1.0.0", "ip_not_allowed"
    ),
    "body-schema": Case([SCHEMA], 422, "json-schema-validation v1.0.0", "", method="POST", body=b'{"name": "x"}'),
    "own-answer": Case(
        [scripted(request_headers={"respond": {"status": 451, "details": "blocked_here"}})],
        451,
        "scripted v1.0.0",
        "blocked_here",
    ),
    "exception": Case(
        [misbehaving("exception")], 500, "misbehaving v1.0.0", "policy_failed:misbehaving_v1.0.0", "failed",
        in_text="exception: RuntimeError",
    ),
    "timeout": Case(
        [misbehaving("never-answers")], 500, "misbehaving v1.0.0", "policy_failed:misbehaving_v1.0.0", "failed",
        in_text="timeout: ",
    ),
    "invalid-action": Case(
        [misbehaving("invalid-value")], 500, "misbehaving v1.0.0", "policy_failed:misbehaving_v1.0.0", "failed",
        in_text="invalid_action: ",
    ),
    "condition": Case(
        [{**scripted(request_headers={}), "condition": 'request.method == "GET" && int(request.headers["x-n"]) > 3'}],
        500,
        "scripted v1.0.0",
        "policy_failed:scripted_v1.0.0",
        "failed",
        in_text='request.headers["x-n"]  →  no such key in a map',
    ),
    "on-the-way-back": Case(
        [misbehaving("exception", "response")], 500, "misbehaving v1.0.0", "policy_failed:misbehaving_v1.0.0", "failed",
        in_text="on_response_headers: failed",
    ),
    "large-body": Case(
        [SCHEMA], 413, "", "policy_engine:body_too_large", method="POST", body=b'"' + b"x" * 300_000 + b'"'
    ),
    "coded-body": Case(
        [SCHEMA], 415, "", "policy_engine:undecodable_body", method="POST",
        headers=[("content-encoding", "gzip")], body=b"this is no gzip",
    ),
    "many-headers": Case(
        [scripted(request_headers={})], 431, "", "policy_engine:headers_too_large",
        headers=[(f"x-many-{number}", "1") for number in range(90)],
    ),
}  # fmt: skip
"""Thirteen kinds of denial by the key of their route."""

SETTINGS = {"BODY_LIMIT": "256KiB", "LIMITS_HEADER_COUNT": "80"}
FLAGS = ["--body-limit", "256KiB", "--limits-header-count", "80"]


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("policies") / "all"
    shutil.copytree(TEST_POLICIES, directory)
    for name in ("api-key-validation", "ip-allow", "json-schema-validation"):
        shutil.copytree(SHIPPED / name, directory / name)
    return directory


@pytest.fixture(scope="module")
def runtime(policies: Path) -> Iterator[Runtime]:
    of = {name: case.chain for name, case in CASES.items()}
    with generated(of, policies=policies, settings={**SETTINGS, "WORKERS": "2"}) as running:
        yield running


def offline(
    runtime: Runtime, policies: Path, name: str, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, str]:
    case = CASES[name]
    headers = [word for header, value in case.headers for word in ("-H", f"{header}: {value}")]
    file = runtime.chains.path.with_name(f"{name}.body")
    file.write_bytes(case.body)
    data = ["-d", f"@{file}", "-H", "content-type: application/json"] if case.body else []
    where = ["--route", name, "--chains", str(runtime.chains.path), "--policies-directory", str(policies)]
    status = main(
        [
            "explain",
            f"/{name}/x?token=private",
            "--client-address",
            "127.0.0.1",
            "-X",
            case.method,
            *headers,
            *data,
            *where,
            *FLAGS,
            *more,
        ]
    )
    return status, capsys.readouterr().out


class Trace:
    """`policy-engine trace` as an operator runs it."""

    def __init__(self, runtime: Runtime, *flags: str) -> None:
        admin = f"127.0.0.1:{runtime.engine.admin.port}"
        command, env = python_program("policy_engine", "trace", "--admin", admin, *flags)
        self.process = subprocess.Popen(
            [str(word) for word in command], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        first = self.process.stderr.readline()
        assert "listening" in first, first

    def lines(self) -> list[str]:
        out, error = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, error
        return out.splitlines()

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def send(runtime: Runtime, name: str) -> Any:
    case = CASES[name]
    headers = [*case.headers, *([("content-type", "application/json")] if case.body else [])]
    return runtime.send(f"/{name}/x?token=private", method=case.method, headers=headers, body=case.body)


def essence(record: dict[str, Any]) -> tuple[Any, ...]:
    label = f"{record.get('policy', '')} {record.get('version', '')}".strip()
    return record["verdict"], record["status"], label, record.get("reason", "")


@pytest.fixture(scope="module")
def live(runtime: Runtime) -> dict[str, dict[str, Any]]:
    """Every case sent through Envoy while one command traces; its records by route key."""
    with Trace(runtime, "--json", "--limit", str(len(CASES))) as trace:
        for name, case in CASES.items():
            assert send(runtime, name).status == case.status, name
        records = [json.loads(line) for line in trace.lines()]
    return {record["route"]: record for record in records}


@pytest.mark.parametrize("name", CASES)
def test_one_command_tells_offline_why_a_request_is_denied(
    runtime: Runtime, policies: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    status, text = offline(runtime, policies, name, capsys)
    assert status == {"denied": 1, "failed": 2}[case.verdict], text
    assert f"{case.verdict.upper()} with {case.status} by {case.policy or 'the engine itself'}" in text
    assert case.reason in text
    assert case.in_text in text
    _, text = offline(runtime, policies, name, capsys, "--json")
    found = essence(json.loads(text))
    assert found[:3] == (case.verdict, case.status, case.policy)


@pytest.mark.parametrize("name", CASES)
def test_live_tells_the_same_as_offline(
    runtime: Runtime,
    policies: Path,
    live: dict[str, dict[str, Any]],
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = live[name]
    _, text = offline(runtime, policies, name, capsys, "--json")
    mine = json.loads(text)
    assert essence(record) == essence(mine)
    assert [hook["hook"] for hook in record.get("hooks", ())] == [hook["hook"] for hook in mine.get("hooks", ())]
    assert record.get("modes") == mine.get("modes")
    assert record["worker"] in (0, 1)


@pytest.mark.parametrize("name", CASES)
def test_no_credential_is_shown(live: dict[str, dict[str, Any]], name: str) -> None:
    text = json.dumps(live[name])
    assert "private" not in text
    assert "not-the-secret-key" not in text


@pytest.mark.parametrize("name", CASES)
def test_the_decision_log_has_one_line_for_each(runtime: Runtime, live: dict[str, dict[str, Any]], name: str) -> None:
    case, identifier = CASES[name], live[name]["request_id"]
    lines = [json.loads(line) for line in runtime.engine.log().splitlines() if '"event": "decision"' in line]
    (line,) = [one for one in lines if one.get("request_id") == identifier]
    policy_name, _, version = case.policy.partition(" ")
    assert (line["decision"], line["status"]) == (case.verdict, case.status)
    assert (line.get("policy", ""), line.get("policy_version", "")) == (policy_name, version)
    assert case.reason in line["reason"]
    assert (line["route"], line["path"]) == (name, f"/{name}/x")
    assert ("milliseconds" in line) == bool(case.policy)
    assert "private" not in json.dumps(line)


@pytest.mark.parametrize("name", CASES)
def test_the_access_log_of_the_generated_configuration_tells_the_same(
    runtime: Runtime, live: dict[str, dict[str, Any]], name: str
) -> None:
    case, identifier = CASES[name], live[name]["request_id"]

    def logged() -> list[Any]:
        lines = [json.loads(line) for line in runtime.proxy.log().splitlines() if line.startswith('{"')]
        return [line for line in lines if line.get("request_id") == identifier]

    eventually(lambda: bool(logged()), "in the access log")
    (line,) = logged()
    policy_name, _, version = case.policy.partition(" ")
    assert (line["decision"], line["status"]) == (case.verdict, case.status)
    assert (line["policy"] or "", line["policy_version"] or "") == (policy_name, version)
    assert case.reason in line["reason"]
    assert line["path"] == f"/{name}/x"
    assert "private" not in json.dumps(line)


def test_a_listener_with_a_condition_hears_of_what_fits_alone(runtime: Runtime) -> None:
    where = 'response.status == 451 && request.path.endsWith("/x")'
    with Trace(runtime, "--where", where, "--limit", "2", "--brief") as trace:
        for name in ("no-key", "own-answer", "wrong-key", "own-answer"):
            send(runtime, name)
        lines = trace.lines()
    assert len(lines) == 2
    assert all("DENIED with 451 by scripted v1.0.0" in line and "token=***" in line for line in lines)


def test_a_listener_of_one_route_sees_it_explained(runtime: Runtime) -> None:
    with Trace(runtime, "--route", "wrong-*", "--limit", "1") as trace:
        send(runtime, "no-key")
        send(runtime, "wrong-key")
        text = "\n".join(trace.lines())
    assert "1. api-key-validation v1.0.0  on_request_headers: denied with 403" in text
    assert "GET /wrong-key/x?token=***" in text


def test_what_cannot_be_asked_of_a_running_engine_ends_the_command(
    runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    admin = f"127.0.0.1:{runtime.engine.admin.port}"
    assert main(["trace", "--admin", admin, "--where", "request.pth == 'x'"]) == 2
    assert "did you mean `request.path`" in capsys.readouterr().err
    assert main(["trace", "--admin", "127.0.0.1:1", "--limit", "1"]) == 1
    assert "does not answer" in capsys.readouterr().err


def test_diff_finds_the_decision_that_changed_in_recorded_traffic(
    runtime: Runtime, policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = tmp_path / "recorded.jsonl"
    names = ["no-key", "address", "own-answer", "body-schema"]
    with Trace(runtime, "--record", str(recording), "--limit", str(len(names))) as trace:
        for name in names:
            send(runtime, name)
        trace.lines()
    old = runtime.chains.path
    changed = {name: CASES[name].chain for name in names} | {
        "address": [policy("ip-allow", "v1.0.0", {"allow": ["127.0.0.0/8"]})],
        "body-schema": [policy("json-schema-validation", "v1.0.0", {"request": {"schema": {"type": "array"}}})],
    }
    new = tmp_path / "new.yaml"
    new.write_text(json.dumps(document(changed)))
    flags = ["--requests", str(recording), "--policies-directory", str(policies)]
    assert main(["diff", str(old), str(old), *flags]) == 0
    assert "0 of 4 requests" in capsys.readouterr().out
    assert main(["diff", str(old), str(new), *flags, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(one["route"], one["old"]["verdict"], one["new"]["verdict"]) for one in found] == [
        ("address", "denied", "passed")
    ]
    assert main(["diff", str(old), str(new), *flags]) == 1
    text = capsys.readouterr().out
    assert "- denied 403 by ip-allow v1.0.0 (ip_not_allowed)" in text
    assert "+ passed\n" in text


def test_the_log_level_holds_in_every_process_and_debug_shows_policies(runtime: Runtime) -> None:
    def set_level(level: str) -> int:
        return client.send(runtime.engine.admin.port, "PUT", "/log-level", body=level.encode()).status

    def new_lines(start: int) -> list[Any]:
        return [json.loads(line) for line in runtime.engine.log()[start:].splitlines() if line.startswith("{")]

    assert set_level("debug") == 200
    try:
        start = len(runtime.engine.log())
        send(runtime, "own-answer")
        eventually(lambda: any(one.get("event") == "hook" for one in new_lines(start)), "a line of the policy")
        lines = new_lines(start)
        (hook,) = [one for one in lines if one.get("event") == "hook"]
        assert hook["message"].startswith(
            "policy scripted v1.0.0 on_request_headers: denied with 451 (blocked_here) in "
        )
        assert {one["logger"].split(".")[0] for one in lines} == {"policy_engine"}
    finally:
        assert set_level("info") == 200
    start = len(runtime.engine.log())
    send(runtime, "own-answer")
    assert not any(one["level"] == "debug" for one in new_lines(start))
