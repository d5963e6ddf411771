"""The test kit follows the engine's rules, so that a policy that passes with it behaves alike behind Envoy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

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
from policy_engine.sdk.testing import load_policy, policy_class, request, response, run, run_async


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
        assert request.body is None, "the body must not be there before it was read"

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


def test_immediate_response_from_the_response_phase_keeps_outer_policies_out() -> None:
    outer = Tag({"name": "outer"})
    outcome = run([outer, hook("on_response_headers", ImmediateResponse(502))], request())
    assert outcome.status == 502
    assert outcome.reached_upstream
    assert outer.seen == [()]


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


def _policy(directory: Path, entrypoint: str, value: str) -> Path:
    directory.mkdir()
    (directory / "policy.yaml").write_text(f"name: x\nentrypoint: {entrypoint}  # the class\nphases: []\n")
    (directory / "value.py").write_text(f"VALUE = {value!r}\n")
    (directory / "policy.py").write_text(
        "from policy_engine.sdk import Policy\nfrom .value import VALUE\n"
        "class Mine(Policy):\n    value = VALUE\n"
        "    def __init__(self, parameters):\n        self.parameters = parameters\n"
        "NotOne = 3\n"
    )
    return directory


def test_two_versions_of_one_policy_load_side_by_side(tmp_path: Path) -> None:
    old, new = _policy(tmp_path / "v1", "policy:Mine", "one"), _policy(tmp_path / "v2", "'policy:Mine'", "two")
    assert vars(policy_class(old))["value"] == "one"
    assert vars(policy_class(new / "policy_test.py"))["value"] == "two"
    assert policy_class(old) is policy_class(old)
    assert vars(load_policy(new, {"a": 1}))["parameters"] == {"a": 1}


@pytest.mark.parametrize(("entrypoint", "error"), [("nothing", ValueError), ("policy:NotOne", TypeError)])
def test_wrong_entrypoint_is_explained(tmp_path: Path, entrypoint: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="entrypoint"):
        policy_class(_policy(tmp_path / "v1", entrypoint, ""))


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
