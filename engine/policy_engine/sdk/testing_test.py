"""The test kit follows the engine's rules, so that a policy that passes with it behaves alike behind Envoy."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy_engine.sdk import (
    Chunk,
    ChunkMutation,
    Headers,
    ImmediateResponse,
    Policy,
    Request,
    RequestAction,
    RequestMutation,
    Response,
    ResponseAction,
    ResponseMutation,
    TrailerMutation,
    header_name,
    header_value,
)
from policy_engine.sdk.testing import entry, load_policy, policy_class, request, response, run, run_async
from policy_engine.worker.policies.loader import PoliciesUnusable
from policy_engine.worker.policies.parameters import ParameterSchema, ParametersInvalid


class Tag(Policy):
    """Appends its name on the way in and on the way out, and notes what it sees."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.name = parameters["name"]
        self.seen: list[tuple[str, ...]] = []

    def on_request_headers(self, request: Request) -> RequestAction:
        self.seen.append(request.headers.get_all("x-tag"))
        request.metadata["last"] = self.name
        return RequestMutation(append_headers=[("x-tag", self.name)])

    async def on_response_headers(self, request: Request, response: Response) -> ResponseAction:
        await asyncio.sleep(0)
        self.seen.append(response.headers.get_all("x-tag"))
        return ResponseMutation(append_headers=[("x-tag", self.name)])


class Upper(Policy):
    """Rewrites a request body piece by piece."""

    def on_request_chunk(self, request: Request, chunk: Chunk) -> ChunkMutation:
        return ChunkMutation(chunk.data.upper())


class Whole(Policy):
    """Replaces the whole body of both directions."""

    def on_request_headers(self, request: Request) -> None:
        # b"" says that the request has none, which Envoy knows from the headers.
        assert not request.body, "the body must not be there before it was read"

    def on_request_body(self, request: Request) -> RequestAction:
        return RequestMutation(body=(request.body or b"") + b"!")

    def on_response_body(self, request: Request, response: Response) -> ResponseAction:
        return ResponseMutation(body=b"<" + (response.body or b"") + b">", status=201)


class Deny(Policy):
    def on_request_headers(self, request: Request) -> RequestAction:
        return ImmediateResponse(403, "no", headers={"x-why": "test"}, dynamic_metadata={"a": {"b": 1}})


def hook(name: str, answer: Any) -> Policy:
    made: type[Policy] = type("Made", (Policy,), {name: lambda self, *arguments: answer})
    return made({})


def test_request_in_chain_order_response_in_reverse_with_earlier_changes_visible() -> None:
    first, second = Tag({"name": "first"}), Tag({"name": "second"})
    outcome = run([first, second], request(headers={"x-tag": "client"}), response(headers={"x-tag": "upstream"}))
    assert outcome.request.headers.get_all("x-tag") == ("client", "first", "second")
    assert outcome.response.headers.get_all("x-tag") == ("upstream", "second", "first")
    assert second.seen == [("client", "first"), ("upstream",)]
    assert first.seen == [("client",), ("upstream", "second")]
    assert outcome.metadata["last"] == "second"
    assert outcome.hooks == ["Tag.on_request_headers"] * 2 + ["Tag.on_response_headers"] * 2


def test_immediate_response_ends_the_chain() -> None:
    later = Tag({"name": "later"})
    outcome = run([Deny({}), later], request(), lambda request: pytest.fail("the upstream was reached"))
    assert (outcome.status, outcome.body, outcome.response.headers["x-why"]) == (403, b"no", "test")
    assert outcome.immediate is not None
    assert not outcome.reached_upstream
    assert later.seen == []
    assert outcome.dynamic_metadata == {"a": {"b": 1}}


def test_immediate_response_from_the_response_phase_is_seen_by_outer_policies() -> None:
    outer = Tag({"name": "outer"})
    outcome = run([outer, hook("on_response_headers", ImmediateResponse(502))], request())
    assert outcome.status == 502
    assert outcome.reached_upstream
    assert outer.seen == [(), ()]
    assert outcome.response.headers.get_all("x-tag") == ("outer",)


def test_a_denial_without_a_body_has_the_one_that_clients_get() -> None:
    outcome = run(hook("on_request_headers", ImmediateResponse(401, problem={"detail": "No key."})), request())
    assert outcome.response.headers["content-type"] == "application/problem+json"
    assert json.loads(outcome.body or b"") == {
        "type": "about:blank",
        "title": "Unauthorized",
        "detail": "No key.",
        "status": 401,
        "request_id": "test-request",
    }


@pytest.mark.parametrize("origin", ["upstream", "envoy"])
def test_a_response_says_where_it_comes_from(origin: Any) -> None:
    class Looks(Policy):
        def on_response_headers(self, request: Request, response: Response) -> ResponseAction:
            return ResponseMutation(set_headers={"x-origin": response.origin})

    looks = entry(Looks({}), condition=f'response.origin == "{origin}"')
    assert run(looks, request(), response(503, origin=origin)).response.headers["x-origin"] == origin
    assert run([Looks({}), Deny({})], request()).response.headers["x-origin"] == "policy"


def test_bodies_are_replaced_and_content_length_follows() -> None:
    outcome = run(Whole({}), request("POST", "/", body=b"in"), response(body=b"out"))
    assert (outcome.request.body, outcome.request.headers["content-length"]) == (b"in!", "3")
    assert (outcome.status, outcome.body, outcome.response.headers["content-length"]) == (201, b"<out>", "5")


def test_the_upstream_may_be_a_function_of_the_request() -> None:
    outcome = run(Whole({}), request("POST", "/", body=b"in"), lambda sent: response(body=sent.body))
    assert outcome.body == b"<in!>"


def test_path_method_authority_and_status_change() -> None:
    change = RequestMutation(path="/b?x=1", method="PUT", authority="other.example.test")
    outcome = run(hook("on_request_headers", change), request("GET", "/a"))
    sent = outcome.request
    assert (sent.method, sent.path, sent.query, sent.host) == ("PUT", "/b", {"x": "1"}, "other.example.test")


def test_arguments_are_not_changed() -> None:
    given, answer = request("POST", "/", headers={"x-tag": "a"}, body=b"b"), response(headers={"x-tag": "b"})
    for _ in range(2):
        outcome = run([Tag({"name": "t"}), Whole({})], given, answer)
        assert outcome.request.headers.get_all("x-tag") == ("a", "t")
    assert given.headers.get_all("x-tag") == ("a",)
    assert given.body == b"b"


def test_streaming_when_all_can_else_joined() -> None:
    pieces = [b"ab", b"cd"]
    assert run([Upper({}), Tag({"name": "t"})], request("POST"), request_chunks=pieces).request_chunks == [b"AB", b"CD"]
    joined = run([Upper({}), Whole({})], request("POST"), request_chunks=pieces)
    assert joined.request.body == b"ABCD!"
    assert joined.request_chunks == []


def test_a_chunk_may_end_the_stream_and_a_dropped_end_still_reaches_later_policies() -> None:
    ends: list[Chunk] = []

    class Sink(Policy):
        def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> None:
            ends.append(chunk)

    class Cut(Policy):
        def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> ChunkMutation | None:
            return ChunkMutation(b"", end=True) if chunk.data == b"stop" else None

    outcome = run([Sink({}), Cut({})], request(), response_chunks=[b"one", b"stop", b"never"])
    assert outcome.response_chunks == [b"one"]
    assert ends == [Chunk(b"one"), Chunk(b"", end=True)]


def test_trailers_both_ways() -> None:
    class Trail(Policy):
        def on_request_trailers(self, request: Request, trailers: Headers) -> TrailerMutation:
            return TrailerMutation(set_headers={"x-seen": trailers["x-a"]})

        def on_response_trailers(self, request: Request, response: Response, trailers: Headers) -> TrailerMutation:
            return TrailerMutation(remove_headers=["grpc-message"])

    outcome = run(Trail({}), request(), request_trailers={"x-a": "1"}, response_trailers={"grpc-message": "m"})
    assert outcome.request_trailers is not None
    assert outcome.request_trailers["x-seen"] == "1"
    assert outcome.response_trailers is not None
    assert "grpc-message" not in outcome.response_trailers


def test_blocking_hooks_run_off_the_event_loop_and_streams_end() -> None:
    threads: list[int] = []
    ended: list[str] = []

    class Blocks(Policy):
        blocking = True

        def on_request_headers(self, request: Request) -> None:
            threads.append(threading.get_ident())

        def on_stream_end(self, request: Request) -> None:
            ended.append(request.id)

    run(Blocks({}), request())
    assert threads[0] != threading.get_ident()
    assert ended == ["test-request"]


@pytest.mark.parametrize(
    ("name", "answer", "error"),
    [
        ("on_request_headers", ResponseMutation(), TypeError),
        ("on_response_headers", "text", TypeError),
        ("on_request_headers", RequestMutation(set_headers={":path": "/"}), ValueError),
        ("on_request_headers", RequestMutation(append_headers=[("x-a", "1\r\nx-b: 2")]), ValueError),
        ("on_request_headers", RequestMutation(remove_headers=["host"]), ValueError),
        ("on_response_headers", ImmediateResponse(400, headers={"bad name": "1"}), ValueError),
    ],
)
def test_what_the_engine_would_count_as_failure_is_raised(name: str, answer: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        run(hook(name, answer), request())


def test_idle_phases_are_left_out() -> None:
    policy = Tag({"name": "t"})
    policy.idle_phases = {"response_headers"}
    assert run(policy, request()).hooks == ["Tag.on_request_headers"]


def test_run_async_within_a_loop() -> None:
    async def main() -> int:
        return (await run_async(Deny({}), request())).status

    assert asyncio.run(main()) == 403


MANIFEST = """\
name: x
version: v1.0.0
description: A policy of a test.
entrypoint: {entrypoint}  # the class
phases: [request_headers]
parameters:
  type: object
  additionalProperties: false
  properties:
    a: {{type: integer, minimum: 1}}
    b: {{type: string, default: b}}
examples: [{{description: None, parameters: {{}}}}]
"""
MODULE = """\
from policy_engine.sdk import Policy
from .value import VALUE


class Mine(Policy):
    value = VALUE

    def __init__(self, parameters):
        self.parameters = parameters

    def on_request_headers(self, request): ...


NotOne = 3
"""


def _policy(directory: Path, entrypoint: str, value: str) -> Path:
    directory.mkdir()
    (directory / "policy.yaml").write_text(MANIFEST.format(entrypoint=entrypoint))
    (directory / "value.py").write_text(f"VALUE = {value!r}\n")
    (directory / "policy.py").write_text(MODULE)
    return directory


def test_two_versions_of_one_policy_load_side_by_side(tmp_path: Path) -> None:
    old, new = _policy(tmp_path / "v1", "policy:Mine", "one"), _policy(tmp_path / "v2", "'policy:Mine'", "two")
    assert vars(policy_class(old))["value"] == "one"
    assert vars(policy_class(new / "policy_test.py"))["value"] == "two"
    assert policy_class(old) is policy_class(old)


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.one_of(st.integers(-2, 3), st.text(max_size=2), st.none(), st.lists(st.integers(), max_size=1)),
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_parameters_are_checked_and_completed_as_the_engine_does(
    tmp_path_factory: pytest.TempPathFactory, parameters: dict[str, Any]
) -> None:
    where = tmp_path_factory.getbasetemp() / "checked"
    if not where.exists():
        _policy(where, "policy:Mine", "")
    schema = yaml.safe_load((where / "policy.yaml").read_text())["parameters"]
    checked = ParameterSchema(schema).check(parameters)
    if not checked.violations:
        assert vars(load_policy(where, parameters))["parameters"] == checked.parameters
        return
    with pytest.raises(ParametersInvalid) as raised:
        load_policy(where, parameters)
    assert raised.value.violations == checked.violations
    assert all(one.reason in str(raised.value) for one in checked.violations)


@pytest.mark.parametrize("entrypoint", ["nothing", "policy:NotOne", "policy:Missing", "elsewhere:Mine"])
def test_a_wrong_policy_is_explained_as_the_engine_does(tmp_path: Path, entrypoint: str) -> None:
    with pytest.raises(PoliciesUnusable, match=r"policy\.yaml:4|elsewhere"):
        policy_class(_policy(tmp_path / "v1", entrypoint, ""))


def test_a_subclass_of_an_action_is_none() -> None:
    class Mine(RequestMutation):
        pass

    with pytest.raises(TypeError, match=r"Made\.on_request_headers: the hook returned Mine"):
        run(hook("on_request_headers", Mine()), request())


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_body_hooks_run_for_a_message_without_a_body_where_one_could_be(method: str, status: int) -> None:
    outcome = run(Whole({}), request(method), response(status, body=b"kept by the upstream"))
    hooks = ["Whole.on_request_headers", "Whole.on_request_body"]
    runs = method == "GET" and status == 200
    assert outcome.hooks == [*hooks, *(["Whole.on_response_body"] if runs else [])]
    assert outcome.request.body == b"!"
    assert outcome.body == (b"<kept by the upstream>" if runs else None)
    assert run(Whole({}), request(method), response(status)).body == (b"<>" if runs else None)


def test_a_chunk_hook_may_refuse_the_request() -> None:
    outcome = run(
        hook("on_request_chunk", ImmediateResponse(413, "much")), request("POST"), request_chunks=[b"a", b"b"]
    )
    assert (outcome.status, outcome.body, outcome.reached_upstream) == (413, b"much", False)
    with pytest.raises(TypeError, match="it may return ChunkMutation or None"):
        run(hook("on_response_chunk", ImmediateResponse(500)), request(), response(body=b"whole"))


def test_before_trailers_the_last_chunk_is_an_empty_one() -> None:
    seen: list[Chunk] = []

    class Sink(Policy):
        def on_request_chunk(self, request: Request, chunk: Chunk) -> None:
            seen.append(chunk)

    run(Sink({}), request("POST"), request_chunks=[b"a", b"b"], request_trailers={"x-a": "1"})
    assert seen == [Chunk(b"a"), Chunk(b"b"), Chunk(b"", end=True)]


def test_a_change_that_cannot_be_sent_any_more_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="can no longer be sent"):
        run(Whole({}), request("POST"), request_trailers={"x-a": "1"})


def test_headers_that_envoy_joins_come_as_one_line() -> None:
    seen: list[tuple[str, ...]] = []

    class Looks(Policy):
        def on_request_headers(self, request: Request) -> None:
            seen.extend(request.headers.get_all(name) for name in ("accept", "cookie", "x-a"))

    twice = {name: ["1", "2"] for name in ("accept", "cookie", "x-a")}
    outcome = run(Looks({}), request(headers=twice))
    assert seen == [("1,2",), ("1; 2",), ("1", "2")]
    assert outcome.request.headers.get_all("accept") == ("1,2",)


def test_a_compressed_body_is_decoded_for_the_policy_and_encoded_again() -> None:
    body = gzip.compress(b"in")
    outcome = run(Whole({}), request("POST", headers={"content-encoding": "gzip"}, body=body))
    assert gzip.decompress(outcome.request.body or b"") == b"in!"


def test_entries_have_conditions_and_failure_modes() -> None:
    tag = entry(Tag({"name": "t"}), condition="request.path == '/yes'")
    assert run(tag, request(target="/yes")).hooks == ["Tag.on_request_headers", "Tag.on_response_headers"]
    assert run(tag, request(target="/no")).hooks == []
    wrong = hook("on_request_headers", "wrong")
    closed = run([entry(wrong, failure_mode="closed"), tag], request(target="/yes"))
    assert (closed.status, closed.reached_upstream) == (500, False)
    opened = run([entry(wrong, failure_mode="open"), tag], request(target="/yes"))
    assert (opened.status, opened.hooks[1:]) == (200, ["Tag.on_request_headers", "Tag.on_response_headers"])
    with pytest.raises(ValueError, match="ajar"):
        entry(wrong, failure_mode="ajar")


def test_what_fails_at_the_end_of_the_stream_is_raised() -> None:
    class Ends(Policy):
        def on_stream_end(self, request: Request) -> None:
            raise LookupError("at the end")

    with pytest.raises(LookupError, match="at the end"):
        run(Ends({}), request())


def test_a_policy_at_work_does_not_load_the_kit() -> None:
    script = "import sys, policy_engine.cli, policy_engine.processes.serving; print(*sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=env)
    loaded = done.stdout.split()
    assert "policy_engine.worker.chains.compiler" in loaded
    assert not [name for name in loaded if name.startswith(("policy_engine.kit", "policy_engine.sdk.testing"))]


@pytest.mark.parametrize("name", ["", ":path", "x y", "x:y", "x\r\n", "Host", "Content-Length", "é"])
def test_header_names_that_may_not_be_set(name: str) -> None:
    with pytest.raises(ValueError, match=r"RFC 9110|pseudo-header|frames"):
        header_name(name)


@pytest.mark.parametrize("value", ["a\r\nb", "a\0", " a", "a\t", b"\x7f"])
def test_header_values_that_may_not_be_sent(value: str | bytes) -> None:
    with pytest.raises(ValueError, match="header value"):
        header_value(value)


def test_header_names_and_values_that_may() -> None:
    assert header_name("X-Request-ID") == "x-request-id"
    assert header_value("grüß\tdich") == "grüß\tdich"
