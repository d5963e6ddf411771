"""The commands `explain` and `diff` on their own: exit statuses, forms of a request, what cannot be used."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from policy_engine.cli import main
from testsupport.policy_directories import write_policy

MANIFEST = """\
name: {name}
version: {version}
description: A policy of a test.
entrypoint: policy:Tested
phases: [request_headers, request_body, response_headers]
parameters:
  type: object
  additionalProperties: false
  properties:
    deny: {{type: string}}
    mark: {{type: string}}
"""

CODE = """\
from policy_engine.sdk import ImmediateResponse, Policy, RequestMutation, ResponseMutation


class Tested(Policy):
    def __init__(self, parameters):
        self._deny = parameters.get("deny", "/deny")
        self._mark = parameters.get("mark", "1")

    def on_request_headers(self, request):
        if request.path == self._deny:
            return ImmediateResponse(403, details="denied_here")
        if request.path == "/raise":
            raise RuntimeError("no")
        if request.path == "/answer":
            return ImmediateResponse(200, "here")
        return RequestMutation(set_headers={{"x-mark": self._mark}})

    def on_request_body(self, request):
        return None if request.body != b"bad" else ImmediateResponse(400)

    def on_response_headers(self, request, response):
        return ResponseMutation(set_headers={{"x-seen": str(response.status)}})
"""


@pytest.fixture
def where(tmp_path: Path) -> list[str]:
    write_policy(tmp_path / "policies", manifest=MANIFEST, code=CODE)
    chains = tmp_path / "chains.yaml"
    chains.write_text(chain_file("r", {}))
    return ["--chains", str(chains), "--policies-directory", str(tmp_path / "policies")]


def chain_file(key: str, parameters: dict[str, Any]) -> str:
    entry = {"name": "tested", "version": "v1", "parameters": parameters}
    return json.dumps({"version": "v1", "routes": [{"route_key": key, "policies": [entry]}]})


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["/x"], 0, "PASSED, status 200"),
        (["/answer"], 0, "ANSWERED with 200 by tested v1.0.0"),
        (["/deny"], 1, "DENIED with 403 by tested v1.0.0 (on_request_headers): denied_here"),
        (["/raise"], 2, "FAILED with 500 by tested v1.0.0"),
        (["/x", "-d", "bad"], 1, "DENIED with 400 by tested v1.0.0 (on_request_body)"),
        (["/x", "-d", "good", "-X", "PUT"], 0, "PUT /x  host localhost"),
        (["https://h.example/x?a=b"], 0, "GET /x?a=b  host h.example"),
        (["/x", "--route", "s"], 1, "no chain is written for the route key 's'"),
    ],
)
def test_the_status_tells_the_verdict(
    where: list[str], arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *arguments, *where]) == status
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/x", "-H", "no header"], "no header"),
        (["/x", "-d", "@/no/such/file"], "cannot be read"),
        (["no-such.http"], "no-such.http: cannot be read"),
        (["ftp://x"], "http or https"),
        (["/x", "--response", "/no/such"], "cannot be read"),
        (["/x", "--upstream", "tcp://x"], "http://host:port"),
        (["/x", "--upstream", "http://127.0.0.1:1"], "could not be asked"),
        (["/x", "--envoy", "/no/such.yaml"], "cannot be read"),
        (["/x", "--chains", "/no/such.yaml"], "the chains are not valid"),
        (["/x", "--policies-directory", "/no/such"], "/no/such: cannot be read"),
        (["/x", "--body-limit", "much"], "body_limit"),
    ],
)
def test_what_cannot_be_used_has_a_status_of_its_own(
    where: list[str], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *where, *arguments]) == 64
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--no-such-flag"], ["/x", "--response", "a", "--upstream", "b"], ["/x", "/y"]])
def test_a_wrong_command_line_has_it_too(
    where: list[str], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["explain", *where, *arguments])
    assert ended.value.code == 64
    assert "usage: policy-engine" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["validate", "--no-such-flag", "x"])
    assert ended.value.code == 2


def test_which_route_is_asked_where_there_are_several(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    routes: list[Any] = [{"route_key": key, "policies": []} for key in ("a", "b")]
    (tmp_path / "chains.yaml").write_text(json.dumps({"version": "v1", "routes": routes}))
    assert main(["explain", "/x", *where]) == 64
    assert "give --route KEY, one of: a, b" in capsys.readouterr().err
    assert main(["explain", "/x", "--route", "b", *where]) == 0
    assert "no policy ran" in capsys.readouterr().out


def test_a_request_from_a_file_and_from_standard_input(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "r.http"
    file.write_text("POST /x HTTP/1.1\nHost: h.example\n\nbad\n")
    assert main(["explain", str(file), *where]) == 1
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert main(["explain", "-", *where]) == 1
    assert "POST /x  host h.example" in capsys.readouterr().out


@pytest.fixture
def upstream() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])) + self.headers["x-mark"].encode()
            self.send_response(207)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Tests are quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_the_real_upstream_answers(where: list[str], upstream: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "/x", "-d", "good", "--upstream", upstream, "--json", *where]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["notes"] == ["the body of the response (5 bytes) passes unseen: no policy asks for it"]
    assert ["x-seen", "207"] in record["answer"]["headers"]


def test_a_response_from_a_file(where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "response.txt"
    file.write_bytes(b"HTTP/1.1 404 Not Found\r\nX-A: b\r\n\r\nnothing")
    assert main(["explain", "/x", "--response", str(file), *where]) == 0
    text = capsys.readouterr().out
    assert "x-seen: 404" in text
    assert "assumed" not in text


@pytest.mark.parametrize(
    ("key", "note"),
    [
        ("old/x", "the route 'old/*' is written as unmapped: 'old/x' has no chain"),
        ("old", "the route 'old' is written as unmapped"),
        ("ald", "no chain is written for the route key 'ald'; did you mean 'old'?"),
    ],
)
def test_why_a_route_has_no_chain(where: list[str], key: str, note: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(where[1]).write_text(
        "version: v1\nroutes: [{route_key: old/*, unmapped: deny}, {route_key: old, unmapped: deny}]\n"
    )
    assert main(["explain", "/x", "--route", key, *where]) == 1
    assert note in capsys.readouterr().out


def record_of(route: str, path: str, **request: Any) -> str:
    headers = [[":method", "GET"], [":path", path], [":authority", "h"], [":scheme", "https"]]
    return json.dumps({"route": route, "request": {"headers": [*headers, *request.pop("headers", [])], **request}})


def run_diff(tmp_path: Path, where: list[str], lines: list[str], *flags: str) -> int:
    recording = tmp_path / "recorded.jsonl"
    recording.write_text("\n".join(lines) + "\n\n")
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(chain_file("r", {}))
    new.write_text(chain_file("r", {"deny": "/other", "mark": "2"}))
    return main(["diff", str(old), str(new), "--requests", str(recording), *where[2:], *flags])


def test_diff_counts_decisions_alone_unless_asked_for_messages(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [record_of("r", "/deny"), record_of("r", "/same"), record_of("r", "/other"), record_of("gone", "/x")]
    assert run_diff(tmp_path, where, lines) == 1
    text = capsys.readouterr().out
    assert "- denied 403 by tested v1.0.0 (denied_here)\n  + passed 200" in text
    assert "2 of 4 requests" in text
    assert run_diff(tmp_path, where, lines[1:2]) == 0
    capsys.readouterr()
    assert run_diff(tmp_path, where, lines[1:2], "--messages") == 1
    assert "- to the upstream: x-mark: 1" in capsys.readouterr().out


def test_diff_says_that_credentials_are_masked_and_takes_real_ones(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [record_of("r", "/same", headers=[["authorization", "Bearer ***"]])]
    assert run_diff(tmp_path, where, lines) == 0
    assert "1 of 1 requests came with credentials masked" in capsys.readouterr().err
    assert run_diff(tmp_path, where, lines, "-H", "authorization: Bearer real") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("condition", "differs"),
    [
        ('request.attributes["connection.mtls"]', True),
        ('request.attributes["connection.requested_server_name"] == "shop.example"', True),
        ('request.attributes["source.port"] == 4711', True),
        ('request.attributes["source.port"] == 1', False),
        ('request.envoy_metadata["envoy.filters.http.jwt_authn"].payload.sub == "me"', True),
        ('request.envoy_metadata["envoy.filters.http.jwt_authn"].payload.sub == "you"', False),
    ],
)
def test_diff_knows_what_envoy_told_of_recorded_requests(
    where: list[str], tmp_path: Path, condition: str, *, differs: bool
) -> None:
    facts = {
        "attributes": {
            "connection.mtls": True,
            "connection.requested_server_name": "shop.example",
            "source.port": "4711",
        },
        "envoy_metadata": {"envoy.filters.http.jwt_authn": {"payload": {"sub": "me"}}},
    }
    recording = tmp_path / "recorded.jsonl"
    recording.write_text(json.dumps(json.loads(record_of("r", "/deny")) | facts))
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(chain_file("r", {"deny": "/other"}))
    document = json.loads(chain_file("r", {}))
    document["routes"][0]["policies"][0]["condition"] = condition
    document["routes"][0]["policies"].append({"name": "tested", "version": "v1", "parameters": {"deny": "/other"}})
    new.write_text(json.dumps(document))
    assert main(["diff", str(old), str(new), "--requests", str(recording), *where[2:]]) == int(differs)


SUBJECT = 'request.envoy_metadata["envoy.filters.http.jwt_authn"].payload.sub'
JWT_AUTHN = 'envoy.filters.http.jwt_authn={"payload": {"sub": "me"}}'


@pytest.mark.parametrize(
    ("condition", "facts", "status"),
    [
        ('request.attributes["connection.mtls"]', ["--attribute", "connection.mtls=true"], 1),
        ('request.attributes["connection.mtls"]', ["--attribute", "connection.mtls=false"], 0),
        ('request.attributes["source.port"] > 1024', ["--attribute", "source.port=4711"], 1),
        ('request.attributes["request.protocol"] == "HTTP/2"', ["--attribute", "request.protocol=HTTP/2"], 1),
        (f'{SUBJECT} == "me"', ["--metadata", JWT_AUTHN], 1),
        (f'{SUBJECT} == "you"', ["--metadata", JWT_AUTHN], 0),
    ],
)
def test_what_envoy_would_tell_is_said_by_options(
    where: list[str], condition: str, facts: list[str], status: int
) -> None:
    document = json.loads(chain_file("r", {}))
    document["routes"][0]["policies"][0]["condition"] = condition
    Path(where[1]).write_text(json.dumps(document))
    assert main(["explain", "/deny", *facts, *where]) == status


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (["--attribute", "connection.mtls"], "is no NAME=VALUE"),
        (["--attribute", "connection.mtls=yes"], "expected true or false"),
        (["--attribute", "source.port=-1"], "expected a whole number"),
        (["--attribute", f"source.port={'9' * 5000}"], "expected a whole number"),
        (["--attribute", "connection.mtl=true"], "did you mean 'connection.mtls'?"),
        (["--attribute", "response.code=200"], "is not known to Envoy when"),
        (["--metadata", "jwt"], "is no NAMESPACE=JSON"),
        (["--metadata", 'jwt="text"'], "is no NAMESPACE=JSON"),
        (["--metadata", 'jwt={"a": '], "is no NAMESPACE=JSON"),
        (["--metadata", f"jwt={'[' * 200_000}"], "is no NAMESPACE=JSON"),
        (["--metadata", '={"a": 1}'], "is no NAMESPACE=JSON"),
    ],
)
def test_what_envoy_would_never_tell_is_refused(
    where: list[str], facts: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "/x", *facts, *where]) == 64
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("line", ["{}", "[]", "no json", '{"route": "r", "request": {"headers": [[1]]}}', "null"])
def test_diff_names_the_line_that_is_no_record(
    where: list[str], tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_diff(tmp_path, where, [record_of("r", "/same"), line]) == 2
    assert "recorded.jsonl:2: is no record" in capsys.readouterr().err
