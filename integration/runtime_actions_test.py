"""Every action of a policy (R-06) as client and upstream see it through Envoy, and who sees whose changes (R-02 to R-05)."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator

import brotli
import pytest

from integration.harness.exchange import Answer
from integration.runtime_stack import METADATA_NAMESPACE, Runtime, scripted, started

LARGE = "large" * 20_000
DENIAL = {"status": 418, "body": "no", "headers": {"x-why": "policy"}, "append_headers": [["set-cookie", "a=1"]]}
CHAINS = {
    "status": [scripted(response_headers={"status": 299})],
    "body-status": [scripted(response_body={"status": 298, "body": "other"})],
    "target": [scripted(request_headers={"path": "/rewritten?q=1", "method": "PUT", "authority": "other.test"})],
    "stays": [scripted(request_headers={"path": "/elsewhere/x"})],
    "moves": [scripted(request_headers={"path": "/elsewhere/x", "clear_route_cache": True})],
    "elsewhere": [],
    "empty-body": [scripted(request_body={"body": ""}, response_body={"body": ""})],
    "large-body": [scripted(request_body={"body": LARGE}, response_body={"body": LARGE})],
    "small-body": [scripted(request_body={"body": "s"}, response_body={"body": "s"})],
    "body-early": [scripted(request_headers={"body": "early"}, response_headers={"body": "early"})],
    "upper": [scripted(request_body={"upper": True}, response_body={"upper": True})],
    "deny-request_headers": [scripted(request_headers={"respond": DENIAL})],
    "deny-request_body": [scripted(request_body={"respond": DENIAL})],
    "deny-response_headers": [scripted(response_headers={"respond": DENIAL})],
    "deny-response_body": [scripted(response_body={"respond": DENIAL})],
    "deny-grpc": [scripted(request_headers={"respond": {"status": 403, "grpc_status": 7}})],
    "deny-first": [
        scripted(request_headers={"respond": DENIAL}, response_headers={"set": {"x-own": "1"}}),
        scripted(request_headers={"set": {"x-late": "1"}}, request_body={}),
    ],
    "multi": [
        scripted(
            request_headers={
                "append": [["x-multi", "b"], ["x-multi", "c"]],
                "remove": ["x-gone"],
                "set": {"x-one": "1"},
            },
            response_headers={
                "append": [["set-cookie", "b=2; Path=/"], ["set-cookie", "c=3, 4"]],
                "remove": ["x-gone"],
                "set": {"x-one": "1"},
            },
        )
    ],
    "binary": [
        scripted(request_headers={"hex": {"x-raw": "ffc3a9fe"}}, response_headers={"hex": {"x-raw": "ffc3a9fe"}})
    ],
    "metadata": [scripted(request_headers={"metadata": {METADATA_NAMESPACE: {"who": "alice", "n": 7, "ok": [True]}}})],
    "order": [
        scripted(request_headers={"append": [["x-order", "1"]]}, response_headers={"append": [["x-order", "1"]]}),
        scripted(request_headers={"append": [["x-order", "2"]]}, response_headers={"append": [["x-order", "2"]]}),
    ],
    "sees": [
        scripted(
            request_headers={"set": {"x-a": "changed"}, "path": "/sees/other"},
            response_headers={"copy": {"x-seen": "x-a"}},
        ),
        scripted(request_headers={"copy": {"x-copy": "x-a", "x-path": ":path"}}),
    ],
    "shared": [
        scripted(request_headers={"share": {"who": "first", "n": 1}}, response_headers={"shared": {"x-who": "who"}}),
        scripted(request_headers={"shared": {"x-who": "who", "x-n": "n"}, "share": {"who": "second"}}),
        scripted(request_headers={"shared": {"x-now": "who"}}),
    ],
    "set-then-removed": [
        scripted(request_headers={"set": {"x-a": "1"}}),
        scripted(request_headers={"remove": ["x-a"]}),
        scripted(request_headers={"remove": ["x-b"]}),
        scripted(request_headers={"set": {"x-b": "2"}}),
    ],
}
CODINGS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "gzip": (gzip.compress, gzip.decompress),
    "deflate": (zlib.compress, zlib.decompress),
    "br": (brotli.compress, brotli.decompress),
}


@pytest.fixture(scope="module")
def running(transport: str) -> Iterator[Runtime]:
    with started(CHAINS, transport=transport) as runtime:
        yield runtime


@pytest.fixture
def runtime(running: Runtime) -> Runtime:
    running.upstream.reset()
    return running


def test_status_of_a_response_is_changed(runtime: Runtime) -> None:
    assert runtime.send("/status/").status == 299


def test_status_is_changed_together_with_the_body(runtime: Runtime) -> None:
    reply = runtime.send("/body-status/")
    assert (reply.status, reply.body, reply.values("content-length")) == (298, b"other", ["5"])


def test_method_path_and_authority_are_rewritten(runtime: Runtime) -> None:
    assert runtime.send("/target/", method="POST", body=b"x").status == 200
    last = runtime.upstream.last()
    assert (last.method, last.target, last.header("host")) == ("PUT", "/rewritten?q=1", "other.test")
    assert bytes(last.body) == b"x"


def test_route_is_chosen_anew_only_when_the_policy_asks(runtime: Runtime) -> None:
    runtime.send("/stays/?1")
    assert runtime.upstream.last().target == "/elsewhere/x"
    runtime.send("/moves/?1")
    assert runtime.upstream.last().target == "/elsewhere/x"
    # The log has the path as it was sent upstream.
    assert [line["route"] for line in runtime.log_lines("/elsewhere/x", 2)] == ["stays", "elsewhere"]


@pytest.mark.parametrize(("name", "body"), [("empty-body", ""), ("large-body", LARGE), ("small-body", "s")])
@pytest.mark.parametrize("chunked", [False, True])
def test_replaced_body_arrives_whole_with_its_length(runtime: Runtime, name: str, body: str, chunked: bool) -> None:
    sent = b"0123456789" * 10
    runtime.upstream.answer_with(Answer(chunks=[sent]) if chunked else Answer.of(sent))
    reply = runtime.send(f"/{name}/", method="POST", body=iter([sent]) if chunked else sent)
    last = runtime.upstream.last()
    assert bytes(last.body) == body.encode()
    assert reply.body == body.encode()
    for lengths in (last.values("content-length"), reply.values("content-length")):
        assert lengths in ([str(len(body))], [] if chunked else [str(len(body))])


def test_body_replaced_in_the_headers_phase_takes_the_place_of_the_sent_one(runtime: Runtime) -> None:
    runtime.upstream.answer_with(Answer.of(b"a much longer answer"))
    reply = runtime.send("/body-early/", method="POST", body=b"a much longer request")
    assert (bytes(runtime.upstream.last().body), reply.body) == (b"early", b"early")


@pytest.mark.parametrize("coding", CODINGS)
def test_compressed_body_is_decoded_for_the_policy_and_encoded_again(runtime: Runtime, coding: str) -> None:
    encode, decode = CODINGS[coding]
    runtime.upstream.answer_with(Answer.of(encode(b"answer " * 500), headers=[("content-encoding", coding)]))
    reply = runtime.send(
        "/upper/", method="POST", body=encode(b"request " * 500), headers=[("content-encoding", coding)]
    )
    last = runtime.upstream.last()
    assert (last.header("content-encoding"), decode(bytes(last.body))) == (coding, b"REQUEST " * 500)
    assert last.values("content-length") == [str(len(last.body))]
    assert (reply.header("content-encoding"), decode(reply.body)) == (coding, b"ANSWER " * 500)
    assert reply.values("content-length") == [str(len(reply.body))]


@pytest.mark.parametrize(
    ("name", "reached"), [("request_headers", 0), ("request_body", 0), ("response_headers", 1), ("response_body", 1)]
)
def test_immediate_response_from_each_phase(runtime: Runtime, name: str, reached: int) -> None:
    reply = runtime.send(f"/deny-{name}/", method="POST", body=b"x" * 1000)
    assert (reply.status, reply.body, reply.header("x-why")) == (418, b"no", "policy")
    assert (reply.values("set-cookie"), reply.header("x-upstream")) == (["a=1"], None)
    assert len(runtime.upstream.received) == reached


def test_grpc_client_gets_the_grpc_status(runtime: Runtime) -> None:
    reply = runtime.send("/deny-grpc/", method="POST", headers=[("content-type", "application/grpc")])
    assert (reply.status, reply.header("grpc-status")) == (200, "7")


def test_later_policies_do_not_run_after_an_immediate_response(runtime: Runtime) -> None:
    phases = runtime.phases_of(lambda: runtime.send("/deny-first/", method="POST", body=b"x"))
    assert (phases, runtime.upstream.received) == ({"request_headers": 1}, [])


def test_several_values_of_a_header_stay_apart(runtime: Runtime) -> None:
    runtime.upstream.answer_with(Answer.of(headers=[("set-cookie", "a=1"), ("x-gone", "1"), ("x-one", "0")]))
    reply = runtime.send("/multi/", headers=[("x-multi", "a"), ("x-gone", "1"), ("x-one", "0"), ("x-one", "00")])
    last = runtime.upstream.last()
    assert (last.values("x-multi"), last.values("x-gone"), last.values("x-one")) == (["a", "b", "c"], [], ["1"])
    assert reply.values("set-cookie") == ["a=1", "b=2; Path=/", "c=3, 4"]
    assert (reply.values("x-gone"), reply.values("x-one")) == ([], ["1"])


def test_header_values_need_not_be_text(runtime: Runtime) -> None:
    reply = runtime.send("/binary/")
    assert runtime.upstream.last().header("x-raw") == b"\xff\xc3\xa9\xfe".decode("latin-1")
    assert reply.header("x-raw") == b"\xff\xc3\xa9\xfe".decode("latin-1")


def test_dynamic_metadata_is_in_the_access_log(runtime: Runtime) -> None:
    runtime.send("/metadata/")
    assert runtime.log_lines("/metadata/", 1)[0]["metadata"] == {"who": "alice", "n": 7, "ok": [True]}


def test_metadata_of_a_request_is_shared_by_all_policies_of_both_phases_and_by_no_other_request(
    runtime: Runtime,
) -> None:
    for _ in range(2):
        reply = runtime.send("/shared/")
        seen = runtime.upstream.last()
        assert (seen.header("x-who"), seen.header("x-n"), seen.header("x-now")) == ("first", "1", "second")
        assert reply.header("x-who") == "second"


def test_requests_run_in_order_and_responses_in_reverse(runtime: Runtime) -> None:
    reply = runtime.send("/order/")
    assert (runtime.upstream.last().values("x-order"), reply.values("x-order")) == (["1", "2"], ["2", "1"])


def test_later_policies_and_the_response_phase_see_the_changed_request(runtime: Runtime) -> None:
    reply = runtime.send("/sees/", headers=[("x-a", "original")])
    last = runtime.upstream.last()
    assert (last.header("x-copy"), last.header("x-path"), reply.header("x-seen")) == (
        "changed",
        "/sees/other",
        "changed",
    )


def test_last_writer_of_a_header_wins(runtime: Runtime) -> None:
    runtime.send("/set-then-removed/", headers=[("x-a", "0"), ("x-b", "0")])
    assert (runtime.upstream.last().values("x-a"), runtime.upstream.last().values("x-b")) == ([], ["2"])
