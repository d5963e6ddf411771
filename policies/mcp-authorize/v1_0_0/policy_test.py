"""mcp-authorize through the test kit: what may be called, what lists show, and that nothing else gets past it."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.sdk import ImmediateResponse, ParameterError, Policy, Request
from policy_engine.sdk.testing import Outcome, load_policy, request, response, run

EVENTS = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}
ADMINS = {"name": "admins", "action": "allow", "when": '"admin" in metadata.jwt.groups'}
INTERNAL = {"name": "internal", "action": "deny", "tools": ["*_internal"]}
READERS = {"name": "readers", "action": "allow", "tools": ["get_*", "search"]}


def policy(*rules: dict[str, Any], **parameters: Any) -> Policy:
    return load_policy(__file__, {"rules": list(rules) or [ADMINS, INTERNAL, READERS], **parameters})


def post(document: Any, *groups: str, **headers: str) -> Request:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    metadata = {"jwt": {"groups": list(groups)}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return request("POST", "/mcp", headers={**JSON, **named}, body=body, metadata=metadata)


def message(method: str = "tools/call", name: Any = "get_a", number: Any = 1, **more: Any) -> dict[str, Any]:
    params = {"name": name, "arguments": {}} if method == "tools/call" else {}
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params, **more}


def listed(*names: Any, number: Any = 1) -> dict[str, Any]:
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in names]
    return {"jsonrpc": "2.0", "id": number, "result": {"tools": tools, "nextCursor": "c"}}


def shown(body: bytes | None) -> list[str]:
    return [tool["name"] for tool in json.loads(body or b"")["result"]["tools"]]


def details(outcome: Outcome) -> tuple[int, str]:
    assert not outcome.reached_upstream
    assert outcome.immediate is not None
    return outcome.status, outcome.immediate.details


@pytest.mark.parametrize(
    ("tool", "groups", "why"),
    [
        ("get_a", (), ""),
        ("search", (), ""),
        ("delete_a", ("admin",), ""),
        ("get_internal", ("admin",), ""),
        ("delete_a", (), "mcp_authorize_no_rule"),
        ("get_internal", (), "mcp_authorize_denied:internal"),
        ("GET_a", (), "mcp_authorize_no_rule"),
        ("search2", (), "mcp_authorize_no_rule"),
        ("get_a\n", (), ""),
        ("x\nget_a", (), "mcp_authorize_no_rule"),
    ],
)
def test_the_first_rule_for_a_tool_that_holds_decides(tool: str, groups: tuple[str, ...], why: str) -> None:
    outcome = run(policy(), post(message(name=tool), *groups))
    if why:
        assert details(outcome) == (403, why)
        assert why.encode() not in (outcome.body or b"")
    else:
        assert outcome.reached_upstream
        assert outcome.metadata["mcp"]["tool"] == tool


@pytest.mark.parametrize("number", [1, "1", 1.5, -7, "", None, 2**70, "ü" * 300])
def test_an_id_of_any_type_changes_nothing(number: Any) -> None:
    assert run(policy(), post(message(number=number))).reached_upstream
    assert run(policy(), post(message(name="drop", number=number))).status == 403
    answer = response(headers=JSON, body=json.dumps(listed("drop", "get_a", number=number)).encode())
    outcome = run(policy(), post(message("tools/list", number=number)), answer)
    assert shown(outcome.body) == ["get_a"]
    assert json.loads(outcome.body or b"")["id"] == number


def test_a_notification_is_a_call_as_well() -> None:
    call = message(name="drop")
    del call["id"]
    assert run(policy(), post(call)).status == 403


@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_call_that_is_not_allowed_refuses_the_batch(at: int) -> None:
    batch = [message(number=number) for number in range(3)]
    assert run(policy(), post(batch)).metadata["mcp"]["tools"] == ["get_a"] * 3
    batch[at] = message(name="drop")
    assert details(run(policy(), post(batch))) == (403, "mcp_authorize_no_rule")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'"tools/call"',
        b"not json",
        b"{'jsonrpc':'2.0'}",
        b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}',
        '{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16"),
        b'{"jsonrpc":"2.0","id":1,"method":"ping"}{"jsonrpc":"2.0","id":1,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"drop"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_a","name":"drop"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_a","n\\u0061me":"drop"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_a"},"params":{"name":"drop"}}',
        b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
        b'{"id":1,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":{},"method":"ping"}',
        b'{"jsonrpc":"2.0","id":[1],"method":"ping"}',
        b'{"jsonrpc":"2.0","id":true,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":1,"method":["tools/call"],"params":{"name":"drop"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["drop"]}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["drop"]}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":""}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_a"},"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":"x"}',
        b'[[{"jsonrpc":"2.0","id":1,"method":"ping"}]]',
        b"[" * 100 + b"]" * 100,
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"' + b"g" * 2000 + b'"}}',
    ],
)
def test_a_body_in_another_shape_never_passes(body: bytes) -> None:
    allows = policy({"name": "all", "action": "allow"}, default="allow", methods=["*"])
    assert details(run(allows, post(body))) == (400, "mcp_authorize_no_json_rpc")


@pytest.mark.parametrize("method", ["Tools/Call", "tools/call ", "tools/\u017fall", "tools/remove", "rpc.discover", ""])
def test_methods_that_are_not_listed_are_refused(method: str) -> None:
    assert details(run(policy(default="allow"), post(message(method)))) == (403, "mcp_authorize_method")


@pytest.mark.parametrize("method", ["initialize", "ping", "notifications/initialized", "prompts/get", "tools/list"])
def test_the_methods_of_the_protocol_pass(method: str) -> None:
    assert run(policy(), post(message(method))).reached_upstream
    assert run(policy(methods=["tools/*"]), post(message(method))).reached_upstream is (method == "tools/list")


def test_answers_to_the_server_pass() -> None:
    assert run(policy(), post({"jsonrpc": "2.0", "id": 3, "result": {"roots": []}})).reached_upstream
    assert run(policy(), post({"jsonrpc": "2.0", "id": 3, "error": {"code": 1, "message": "no"}})).reached_upstream


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({"mcp_method": "tools/call", "mcp_name": "get_a"}, True),
        ({"mcp_name": "=?base64?" + base64.b64encode(b"get_a").decode() + "?="}, True),
        ({"mcp_method": "ping"}, False),
        ({"mcp_method": "tools/call", "mcp_name": "drop"}, False),
        ({"mcp_name": "=?base64?" + base64.b64encode(b"drop").decode() + "?="}, False),
        ({"mcp_name": "=?base64?/w==?="}, False),
    ],
)
def test_headers_that_say_something_else_are_refused(headers: dict[str, str], passes: bool) -> None:
    assert (run(policy(), post(message(), **headers)).status == 200) is passes


def test_two_names_in_headers_are_refused() -> None:
    asked = request("POST", "/", headers={"mcp-name": ["get_a", "drop"]}, body=json.dumps(message()).encode())
    assert run(policy(READERS), asked).status == 400


def test_a_stream_is_opened_and_a_session_ended_without_a_body() -> None:
    for method in ("GET", "DELETE", "OPTIONS"):
        assert run(policy(), request(method, "/mcp"), response(202)).reached_upstream
    for method in ("POST", "PUT"):
        assert run(policy(), request(method, "/mcp")).status == 400


def test_a_list_has_what_may_be_called() -> None:
    answer = listed("get_a", "get_internal", "drop", "search")
    for groups, names in (((), ["get_a", "search"]), (("admin",), ["get_a", "get_internal", "drop", "search"])):
        asked = post(message("tools/list"), *groups)
        body = json.dumps(answer).encode()
        outcome = run(policy(), asked, response(headers=JSON, body=body))
        assert shown(outcome.body) == names
        assert json.loads(outcome.body or b"")["result"]["nextCursor"] == "c"
        assert (outcome.body == body) is bool(groups), "what needs no change is passed on as it is"
    assert outcome.request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "tools", [[{"name": 3}], [{}], ["drop"], [None], {"drop": {}}, "drop", [{"name": "drop"}], [{"name": "g" * 2000}]]
)
def test_what_is_no_tool_with_a_name_is_in_no_list(tools: Any) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}}).encode()
    outcome = run(policy(READERS), post(message("tools/list")), response(headers=JSON, body=body))
    assert json.loads(outcome.body or b"")["result"]["tools"] == []


def test_a_batch_of_answers_is_filtered() -> None:
    body = json.dumps([listed("drop", "get_a"), {"jsonrpc": "2.0", "id": 2, "result": {}}, listed("drop")]).encode()
    outcome = run(policy(), post([message("tools/list")]), response(headers=JSON, body=body))
    first, other, last = json.loads(outcome.body or b"")
    assert [tool["name"] for tool in first["result"]["tools"]] == ["get_a"]
    assert (other["result"], last["result"]["tools"]) == ({}, [])


def test_a_list_with_a_name_twice_is_read_as_every_client_reads_it() -> None:
    body = b'{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"drop"}]},"result":{"tools":[{"name":"get_a"}]}}'
    outcome = run(policy(READERS), post(message("tools/list")), response(headers=JSON, body=body))
    assert b"drop" not in (outcome.body or b"")
    assert shown(outcome.body) == ["get_a"]


def events(*documents: Any) -> bytes:
    return b"".join(b"event: message\ndata: " + json.dumps(one).encode() + b"\n\n" for one in documents)


ENDPOINT = b"event: endpoint\ndata: /messages/?session_id=1\n\n"
STREAM = (
    ENDPOINT + b": ping\n\n" + events({"jsonrpc": "2.0", "method": "notifications/x"}, listed("drop", "get_a", "ü"))
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=8), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_a_stream_is_filtered_however_it_is_cut(cuts: list[int], line_end: bytes) -> None:
    data = STREAM.replace(b"\n", line_end)
    ends = sorted({one % len(data) for one in cuts} | {len(data)})
    chunks = [data[start:end] for start, end in itertools.pairwise([0, *ends]) if end > start]
    asked = request("GET", "/mcp", metadata={"jwt": {"groups": []}})
    outcome = run(policy(), asked, response(headers=EVENTS), response_chunks=chunks)
    expected = ENDPOINT + b": ping\n\n" + events({"jsonrpc": "2.0", "method": "notifications/x"})
    got = b"".join(outcome.response_chunks)
    assert got.startswith(expected.replace(b"\n", line_end))
    last = got.removeprefix(expected.replace(b"\n", line_end))
    assert shown(last.split(b"data: ")[1]) == ["get_a"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 200), max_size=8))
def test_a_whole_answer_is_filtered_however_it_is_cut(cuts: list[int]) -> None:
    data = json.dumps(listed("drop", "get_a", "get_b")).encode()
    ends = sorted({one % len(data) for one in cuts} | {len(data)})
    chunks = [data[start:end] for start, end in itertools.pairwise([0, *ends]) if end > start]
    outcome = run(policy(READERS), post(message("tools/list")), response(headers=JSON), response_chunks=chunks)
    assert shown(b"".join(outcome.response_chunks)) == ["get_a", "get_b"]


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", "application/x"])
def test_a_list_is_filtered_whatever_it_says_to_be(kind: str) -> None:
    body = json.dumps(listed("drop", "get_a")).encode()
    outcome = run(policy(), post(message("tools/list")), response(headers={"content-type": kind}, body=body))
    assert shown(outcome.body) == ["get_a"]
    text = run(policy(), post(message("ping")), response(202, {"content-type": kind}, body=b"Accepted"))
    assert text.body == b"Accepted"


def test_an_answer_that_cannot_be_read_does_not_pass() -> None:
    asked = post(message("tools/list"))
    packed = response(headers={**JSON, "content-encoding": "br"}, body=b"\x8b")
    assert run(policy(), asked, packed).status == 502
    broken = run(policy(), asked, response(headers=JSON, body=b'{"result":{"tools":[{"name":"drop"}'))
    assert json.loads(broken.body or b"")["error"]["code"] == -32603
    large = json.dumps(listed("drop" * 500)).encode()
    short = policy(max_message_bytes=1024)
    assert b"drop" not in (run(short, asked, response(headers=JSON, body=large)).body or b"")
    cut = run(short, asked, response(headers=EVENTS), response_chunks=[b"data: " + large[:900], large[900:], b"more"])
    assert b"drop" not in b"".join(cut.response_chunks)
    assert b"-32603" in b"".join(cut.response_chunks)


def test_what_another_policy_answers_is_filtered_and_its_denial_is_left_alone() -> None:
    class Answers(Policy):
        def __init__(self, answer: ImmediateResponse) -> None:
            self._answer = answer

        def on_request_headers(self, request: Request) -> ImmediateResponse:
            return self._answer

    stored = Answers(ImmediateResponse(200, json.dumps(listed("drop", "get_a")), JSON))
    assert shown(run([policy(READERS), stored], post(message("tools/list"))).body) == ["get_a"]
    denied = run([policy(READERS), Answers(ImmediateResponse(401))], post(message("tools/list")))
    assert denied.status == 401
    assert json.loads(denied.body or b"")["status"] == 401


@pytest.mark.parametrize("metadata", [{}, {"jwt": {}}, {"jwt": {"groups": 3}}])
def test_a_rule_that_cannot_be_evaluated_falls_on_the_safe_side(metadata: dict[str, Any]) -> None:
    asked = request("POST", "/", metadata=metadata, body=json.dumps(message()).encode())
    assert details(run(policy(ADMINS), asked)) == (403, "mcp_authorize_no_rule")
    blocked = {**ADMINS, "name": "blocked", "action": "deny"}
    everything = {"name": "everything", "action": "allow"}
    assert details(run(policy(blocked, everything), asked)) == (403, "mcp_authorize_rule_failed:blocked")
    assert run(policy(ADMINS, everything), asked).reached_upstream


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20), st.sampled_from([ADMINS, INTERNAL, READERS]), st.booleans())
def test_a_list_shows_exactly_what_may_be_called(tool: str, rule: dict[str, Any], admin: bool) -> None:
    subject, groups = policy(rule, READERS | {"name": "more"}), ["admin"] if admin else []
    may = bool(tool) and run(subject, post(message(name=tool), *groups)).status == 200
    body = json.dumps(listed(tool)).encode()
    outcome = run(subject, post(message("tools/list"), *groups), response(headers=JSON, body=body))
    assert shown(outcome.body) == ([tool] if may else [])


@pytest.mark.filterwarnings("error::policy_engine.sdk.testing.HeldTimeWarning")
@pytest.mark.parametrize("tools", [100, 20_000])
def test_long_lists_and_many_rules_hold_up_nobody(tools: int) -> None:
    rules = [{"name": f"r{number}", "action": "deny", "tools": [f"*{number}*x"]} for number in range(199)]
    subject = policy(*rules, READERS)
    body = json.dumps(listed(*(f"get_{number}" for number in range(tools)))).encode()
    outcome = run(subject, post(message("tools/list")), response(headers=JSON, body=body))
    assert len(shown(outcome.body)) == tools


@pytest.mark.parametrize(
    ("rules", "path", "said"),
    [
        ([ADMINS, {**READERS, "when": "request.metod"}], "/rules/1/when", ["rule readers", "request.method"]),
        ([{**ADMINS, "when": "request.path"}], "/rules/0/when", ["rule admins", "true or false"]),
        ([ADMINS, READERS, {**READERS, "name": "admins"}], "/rules/2/name", ["another rule admins"]),
        ([{**READERS, "tools": []}], "/rules/0/tools", []),
        ([{**READERS, "action": "maybe"}], "/rules/0/action", ["allow"]),
        ([], "/rules", []),
    ],
)
def test_wrong_rules_are_refused_by_name_and_pointer(rules: list[dict[str, Any]], path: str, said: list[str]) -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, {"rules": rules})
    assert path in (caught.value.path or str(caught.value))
    assert all(one in str(caught.value) for one in said)


def test_rules_that_take_too_long_show_no_tool_of_an_answer_that_did_not_wait_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Answers(Policy):
        def on_request_headers(self, request: Request) -> ImmediateResponse:
            return ImmediateResponse(200, json.dumps(listed("get_a", "b_internal")), JSON)

    rule = INTERNAL | {"when": "true"}
    asking = post(message("tools/list"))
    assert shown(run([policy(rule, default="allow"), Answers({})], asking).body) == ["get_a"]
    monkeypatch.setattr("policy_expressions.Budget.spent", lambda _: True)
    assert shown(run([policy(rule, default="allow"), Answers({})], asking).body) == []
