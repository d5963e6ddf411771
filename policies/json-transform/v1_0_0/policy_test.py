"""json-transform through the test kit: every operation, every source of values, and what is missing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.testing import Outcome, load_policy, request, response, run

JSON = {"content-type": "application/json"}


def policy(*operations: dict[str, Any], side: str = "request", **parameters: Any) -> Policy:
    return load_policy(__file__, {side: {"operations": list(operations)}, **parameters})


def post(
    subject: Policy, body: Any, headers: dict[str, str] | None = None, metadata: dict[str, Any] | None = None
) -> Outcome:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return run(subject, request("POST", "/p?q", headers={**JSON, **(headers or {})}, body=raw, metadata=metadata))


def changed(body: Any, *operations: dict[str, Any], **more: Any) -> Any:
    return json.loads(post(policy(*operations), body, **more).request.body or b"")


@pytest.mark.parametrize(
    ("operation", "before", "after"),
    [
        ({"op": "set", "path": "/a", "value": [1]}, {}, {"a": [1]}),
        ({"op": "set", "path": "/a", "value": None}, {"a": 1}, {"a": None}),
        ({"op": "set", "path": "", "value": 1}, {"a": 1}, 1),
        ({"op": "set", "path": "/a/b/c", "value": 1}, {}, {"a": {"b": {"c": 1}}}),
        ({"op": "set", "path": "/a/b", "value": 1, "create_parents": False}, {}, {}),
        ({"op": "set", "path": "/a/b", "value": 1}, {"a": "text"}, {"a": "text"}),
        ({"op": "set", "path": "/a/1", "value": 9}, {"a": [1, 2]}, {"a": [1, 9]}),
        ({"op": "set", "path": "/a/-", "value": 9}, {"a": [1]}, {"a": [1, 9]}),
        ({"op": "set", "path": "/a/5", "value": 9}, {"a": [1]}, {"a": [1]}),
        ({"op": "set", "path": "/a/0/b", "value": 9}, {"a": [{}]}, {"a": [{"b": 9}]}),
        ({"op": "set", "path": "/a~1b/~0", "value": 1}, {}, {"a/b": {"~": 1}}),
        ({"op": "default", "path": "/a", "value": 1}, {"a": None}, {"a": None}),
        ({"op": "default", "path": "/a", "value": 1}, {}, {"a": 1}),
        ({"op": "remove", "path": "/a/0"}, {"a": [1, 2]}, {"a": [2]}),
        ({"op": "remove", "path": "/a/b"}, {"a": {"b": 1}}, {"a": {}}),
        ({"op": "remove", "path": "/x/y"}, {"a": 1}, {"a": 1}),
        ({"op": "rename", "path": "/a/b", "to": "c"}, {"a": {"b": 1, "c": 2}}, {"a": {"c": 1}}),
        ({"op": "rename", "path": "/a", "to": "a"}, {"a": 1}, {"a": 1}),
        ({"op": "copy", "from": "/a", "path": "/b/c"}, {"a": [1]}, {"a": [1], "b": {"c": [1]}}),
        ({"op": "move", "from": "/a/b", "path": "/b"}, {"a": {"b": 1}}, {"a": {}, "b": 1}),
        ({"op": "move", "from": "/a/b", "path": "/a"}, {"a": {"b": 1}}, {"a": 1}),
        ({"op": "move", "from": "/a", "path": "/t/x"}, {"a": 1, "t": "text"}, {"a": 1, "t": "text"}),
    ],
)
def test_operations(operation: dict[str, Any], before: Any, after: Any) -> None:
    assert changed(before, operation) == after


def test_operations_run_in_order_and_copies_are_independent() -> None:
    operations: list[dict[str, Any]] = [
        {"op": "copy", "from": "/a", "path": "/b"},
        {"op": "set", "path": "/b/x", "value": 2},
        {"op": "rename", "path": "/b", "to": "c"},
    ]
    assert changed({"a": {"x": 1}}, *operations) == {"a": {"x": 1}, "c": {"x": 2}}


def test_constants_are_not_shared_between_requests() -> None:
    subject = policy(
        {"op": "default", "path": "/a", "value": {}}, {"op": "default", "path": "/a/b", "from_request": {"header": "h"}}
    )
    post(subject, {}, {"h": "1"})
    assert json.loads(post(subject, {"z": 1}).request.body or b"") == {"z": 1, "a": {}}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ({"header": "X-N"}, "17"),
        ({"header": "x-n", "type": "integer"}, 17),
        ({"header": "x-f", "type": "number"}, 1.5),
        ({"header": "x-f", "type": "integer", "otherwise": -1}, -1),
        ({"header": "x-b", "type": "boolean"}, True),
        ({"header": "none", "otherwise": {"a": []}}, {"a": []}),
        ({"claim": "/roles/1"}, "b"),
        ({"claim": "/roles", "type": "string"}, '["a","b"]'),
        ({"metadata": "/jwt/n", "type": "number"}, 3),
        ({"metadata": "/odd", "otherwise": 0}, 0),
        ({"part": "method"}, "POST"),
        ({"part": "path"}, "/p"),
        ({"part": "client_address"}, "192.0.2.1"),
    ],
)
def test_sources(part: dict[str, Any], value: Any) -> None:
    headers = {"x-n": "17", "x-f": "1.5", "x-b": "true"}
    metadata = {"jwt": {"roles": ["a", "b"], "n": 3}, "odd": object()}
    assert changed({}, {"op": "set", "path": "/v", "from_request": part}, headers=headers, metadata=metadata) == {
        "v": value
    }


def test_templates_are_texts_and_hold_no_code() -> None:
    template = ["u:", {"header": "x-u"}, "/", {"claim": "/n"}]
    operation = {"op": "set", "path": "/v", "template": template}
    metadata = {"jwt": {"n": [1]}}
    hostile = '{claim}","admin":"${x}'
    assert changed({}, operation, headers={"x-u": hostile}, metadata=metadata) == {"v": f"u:{hostile}/[1]"}
    assert changed({"a": 1}, operation) == {"a": 1}


def test_what_is_missing_can_be_a_failure() -> None:
    for operation in (
        {"op": "remove", "path": "/a"},
        {"op": "rename", "path": "/a", "to": "b"},
        {"op": "move", "from": "/a", "path": "/b"},
        {"op": "copy", "from": "/a", "path": "/b"},
        {"op": "set", "path": "/b", "from_request": {"claim": "/sub"}},
        {"op": "set", "path": "/b/c", "value": 1, "create_parents": False},
    ):
        outcome = post(policy({**operation, "on_missing": "fail"}), {"z": 1})
        assert (outcome.status, outcome.reached_upstream) == (422, False), operation
        assert outcome.immediate is not None
        assert outcome.immediate.details == "json_transform_path_missing"


def test_responses() -> None:
    operation = {"op": "remove", "path": "/internal", "on_missing": "fail"}
    subject = policy(operation, side="response")

    def back(body: bytes, status: int = 200) -> Outcome:
        return run(subject, request(), response(status, JSON, body))

    outcome = back(b'{"internal":1,"a":2}')
    assert (outcome.body, outcome.response.headers["content-length"]) == (b'{"a":2}', "7")
    assert back(b'{"a":2}').status == 502
    assert back(b'{"internal":1}', 500).body == b'{"internal":1}'
    assert b"internal" not in (back(b'{"a":2}').body or b"")


@pytest.mark.parametrize(
    ("headers", "body"), [({}, b"{"), ({}, b'{"a":1,"a":2}'), ({"content-type": "text/plain"}, b"{}")]
)
def test_what_is_not_json_passes_or_is_refused(headers: dict[str, str], body: bytes) -> None:
    operation = {"op": "set", "path": "/b", "value": 1}
    assert post(policy(operation), body, headers).request.body == body
    assert post(policy(operation, not_json="refuse"), body, headers).status == 415
    assert post(policy(operation, not_json="refuse"), b"").reached_upstream


@pytest.mark.parametrize(
    "kind", ["application/json,text/plain", "text/plain, application/json", "application/json x", "j"]
)
def test_a_type_that_cannot_be_read_is_not_another_type(kind: str) -> None:
    subject = policy({"op": "set", "path": "/b", "value": 1})
    outcome = post(subject, b"{}", {"content-type": kind})
    assert (outcome.status, outcome.reached_upstream) == (415, False)


def test_a_repeated_json_type_is_json() -> None:
    subject = policy({"op": "set", "path": "/b", "value": 1})
    assert post(subject, b"{}", {"content-type": "application/json,application/json"}).request.body == b'{"b":1}'


def test_a_document_without_change_goes_on_byte_for_byte() -> None:
    body = b'{ "a": 1.0, "big": 123456789012345678901234567890 }'
    outcome = post(policy({"op": "remove", "path": "/x"}), body)
    assert outcome.request.body == body
    assert outcome.steps[0].action is None
    assert b"123456789012345678901234567890" in (
        post(policy({"op": "set", "path": "/x", "value": 1}), body).request.body or b""
    )


TOKENS = st.lists(st.sampled_from(["a", "b", "0", "1", "-", ""]), max_size=3).map(
    lambda some: "".join(f"/{one}" for one in some)
)
DOCUMENTS = st.recursive(
    st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab01"), inner, max_size=3),
)
OPERATIONS = st.one_of(
    st.fixed_dictionaries({"op": st.sampled_from(["set", "default"]), "path": TOKENS, "value": DOCUMENTS}),
    st.fixed_dictionaries({"op": st.just("remove"), "path": TOKENS}),
    st.fixed_dictionaries({"op": st.just("rename"), "path": TOKENS, "to": st.sampled_from("ab")}),
    st.fixed_dictionaries({"op": st.sampled_from(["copy", "move"]), "path": TOKENS, "from": TOKENS}),
)


@given(DOCUMENTS, st.lists(OPERATIONS, min_size=1, max_size=4), st.booleans())
def test_no_document_and_no_operations_make_it_fail(
    document: Any, operations: list[dict[str, Any]], strict: bool
) -> None:
    try:
        subject = policy(*({**one, "on_missing": "fail" if strict else "skip"} for one in operations))
    except ParameterError:
        return
    outcome = post(subject, document)
    assert outcome.status in ((200, 422) if strict else (200,))
    json.loads(outcome.request.body or b"")


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        ({"op": "remove", "path": ""}, "/path"),
        ({"op": "set", "path": "/a"}, ""),
        ({"op": "set", "path": "/a", "value": 1, "template": ["x"]}, ""),
        ({"op": "set", "path": "/a", "from_request": {}}, "/from_request"),
        ({"op": "set", "path": "/a", "template": [{"claim": "x"}]}, "/template/0/claim"),
        ({"op": "copy", "path": "/a"}, ""),
        ({"op": "move", "path": "/a/b", "from": "/a"}, "/from"),
        ({"op": "rename", "path": "/a"}, ""),
    ],
)
def test_wrong_parameters(operation: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(operation)
    assert caught.value.path == f"/request/operations/0{path}"
