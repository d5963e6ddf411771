"""json-schema-validation through the test kit: what gets through, what clients are told, what they are not told."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.testing import Outcome, load_policy, request, response, run

SCHEMA = {
    "type": "object",
    "required": ["item"],
    "additionalProperties": False,
    "properties": {
        "item": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 8},
        "count": {"type": "integer", "minimum": 1},
        "mail": {"format": "email"},
        "list": {"type": "array", "uniqueItems": True, "items": {"$ref": "#/$defs/small"}},
    },
    "$defs": {"small": {"type": ["number", "null"]}},
}
JSON = {"content-type": "application/json"}


def policy(
    schema: Any = SCHEMA, *, side: str = "request", at: dict[str, Any] | None = None, **parameters: Any
) -> Policy:
    return load_policy(__file__, {side: {"schema": schema, **(at or {})}, **parameters})


def post(subject: Policy, body: bytes | Any, headers: dict[str, str] | None = None, method: str = "POST") -> Outcome:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return run(subject, request(method, "/", headers=JSON if headers is None else headers, body=raw))


def errors(outcome: Outcome) -> dict[str, str]:
    return {one["pointer"]: one["detail"] for one in json.loads(outcome.body or b"{}").get("errors", [])}


def test_a_good_body_goes_upstream_untouched() -> None:
    raw = b'{ "item" : "ab", "count": 1.0, "list": [1, null, 2.5] }'
    outcome = post(policy(), raw)
    assert outcome.reached_upstream
    assert outcome.request.body == raw


def test_all_violations_with_pointers_and_no_value() -> None:
    outcome = post(policy(), {"item": "SECRET", "count": 0, "mail": "SECRET", "list": [1, 1.0], "x/y": "SECRET"})
    assert (outcome.status, outcome.reached_upstream) == (422, False)
    assert outcome.response.headers["content-type"] == "application/problem+json"
    assert errors(outcome) == {
        "/item": "must match ^[a-z]+$",
        "/count": "must be at least 1",
        "/mail": "must be a valid email",
        "/list/1": "is a repeated item",
        "/x~1y": "is not an expected member",
    }
    assert b"SECRET" not in (outcome.body or b"")
    assert json.loads(outcome.body or b"")["status"] == 422


def test_each_missing_member_is_named() -> None:
    outcome = post(policy({"required": ["a", "b"]}), {})
    details = [one["detail"] for one in json.loads(outcome.body or b"")["errors"]]
    assert details == ["lacks the required member 'a'", "lacks the required member 'b'"]


def test_values_are_shown_when_asked_for_and_cut() -> None:
    outcome = post(policy(include_values=True), {"item": "X" * 500})
    shown = json.loads(outcome.body or b"")["errors"]
    assert {one["value"] for one in shown} == {"X" * 100}


def test_errors_are_bounded() -> None:
    outcome = post(policy({"items": {"type": "string"}}, max_errors=3), list(range(1000)))
    assert len(errors(outcome)) == 3
    assert "first 3" in json.loads(outcome.body or b"")["detail"]


@pytest.mark.parametrize("raw", [b"", b"{", b'{"item":"a","item":"b"}', b'{"item":NaN}', b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_400(raw: bytes) -> None:
    outcome = post(policy(), raw)
    assert (outcome.status, outcome.reached_upstream) == (400, False)
    assert outcome.immediate is not None
    assert outcome.immediate.details == "body_not_json"


def test_depth_is_bounded() -> None:
    assert post(policy(True, max_depth=2), [[1]]).reached_upstream
    assert post(policy(True, max_depth=2), [[[1]]]).status == 400


def test_a_recursive_schema_on_a_deep_body_is_an_answer_and_no_crash() -> None:
    subject = policy({"items": {"$ref": "#"}}, max_depth=200)
    assert post(subject, b"[" * 200 + b"]" * 200).status in (200, 422)


def test_an_empty_body_is_refused_only_where_one_is_needed() -> None:
    assert post(policy(), b"", method="GET").reached_upstream
    assert post(policy(), b"{}", method="GET").status == 422
    assert post(policy(at={"body_required_for": ["DELETE"]}), b"").reached_upstream
    assert post(policy(at={"body_required_for": ["DELETE"]}), b"", method="DELETE").status == 400


def test_content_types() -> None:
    good = {"item": "a"}
    assert post(policy(), good, {"content-type": "application/vnd.x+json; charset=utf-8"}).reached_upstream
    for headers in ({"content-type": "text/plain"}, {}):
        assert post(policy(), {"item": "A"}, headers).status == 415
        assert post(policy(at={"other_content_types": "pass"}), {"item": "A"}, headers).reached_upstream
    assert post(policy(content_types=["text/*"]), {"item": "A"}, {"content-type": "text/plain"}).status == 422


@pytest.mark.parametrize(
    "kind",
    ["application/json,text/plain", "text/plain,application/json", "application/json charset", 'a/b;x="', "json"],
)
def test_a_type_that_cannot_be_read_does_not_pass_as_another_type(kind: str) -> None:
    subject = policy(at={"other_content_types": "pass"})
    assert post(subject, {"item": "A"}, {"content-type": kind}).status == 415
    assert post(subject, {"item": "a"}, {"content-type": kind}).status == 415


def test_a_repeated_json_type_is_checked() -> None:
    subject = policy(at={"other_content_types": "pass"})
    assert post(subject, {"item": "A"}, {"content-type": "application/json, application/json"}).status == 422


@pytest.mark.parametrize("amount", ["19.99", "4.02", "0.07", "10.2", "1" + "0" * 400, "1e22", "-0.07"])
def test_a_price_is_a_multiple_of_a_cent(amount: str) -> None:
    schema = {"properties": {"amount": {"multipleOf": 0.01}}}
    subject = load_policy(__file__, {"request": {"schema": schema}})
    body = f'{{"amount":{amount}}}'.encode()
    assert run(subject, request("POST", headers=JSON, body=body)).reached_upstream


@pytest.mark.parametrize("amount", ["19.999", "0.001", "1" + "0" * 400, "1e308", "3"])
def test_what_is_no_multiple_is_422_however_large(amount: str) -> None:
    schema = {"properties": {"amount": {"multipleOf": 0.7 if amount[-1] == "0" else 0.9}}}
    subject = load_policy(__file__, {"request": {"schema": schema}})
    body = f'{{"amount":{amount}}}'.encode()
    assert run(subject, request("POST", headers=JSON, body=body)).status == 422


@pytest.mark.parametrize("keyword", ["type", "pattern", "properties", "uniqueItems", "enum"])
def test_an_exception_of_the_validator_is_a_decision(keyword: str, monkeypatch: pytest.MonkeyPatch) -> None:
    schemas: dict[str, dict[str, Any]] = {
        "type": {"type": "object"},
        "pattern": {"properties": {"a": {"pattern": "x"}}},
        "properties": {"properties": {"a": {}}},
        "uniqueItems": {"properties": {"a": {"uniqueItems": True}}},
        "enum": {"enum": [1]},
    }
    subject = load_policy(__file__, {"request": {"schema": {"allOf": [schemas[keyword]]}}})

    def broken(*_: Any) -> Any:
        raise OverflowError("integer division result too large for a float")

    validator: Any = subject
    monkeypatch.setitem(validator._schemas["request"]._validator.VALIDATORS, keyword, broken)
    assert run(subject, request("POST", headers=JSON, body=b'{"a":["x"]}')).status == 422


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"dependencies": {"a": ["b"]}}, "/dependencies"),
        ({"definitions": {"a": {}}}, "/definitions"),
        ({"items": {"additionalItems": False}}, "/items/additionalItems"),
        ({"$recursiveRef": "#"}, "/$recursiveRef"),
        ({"properties": {"a": {"nullable": True}}}, "/properties/a/nullable"),
        ({"$defs": {"a": {"propertes": {}}}}, "/$defs/a/propertes"),
        ({"items": [{"type": "string"}]}, "/items"),
        ({"allOf": [{"minimun": 1}]}, "/allOf/0/minimun"),
    ],
)
def test_words_that_would_be_ignored_are_refused_at_load(schema: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, {"request": {"schema": schema}})
    assert caught.value.path == f"/request/schema{pointer}"


def test_notes_of_one_s_own_are_possible() -> None:
    load_policy(__file__, {"request": {"schema": {"x-owner": "orders", "properties": {"a": {"x-note": 1}}}}})


def test_status_400_for_violations() -> None:
    assert post(policy(at={"invalid_status": 400}), {}).status == 400


def respond(subject: Policy, body: bytes, status: int = 200, method: str = "GET") -> Outcome:
    return run(subject, request(method), response(status, JSON, body))


def test_a_bad_response_is_502_and_the_client_learns_nothing(caplog: pytest.LogCaptureFixture) -> None:
    subject = policy(side="response")
    with caplog.at_level(logging.WARNING):
        outcome = respond(subject, b'{"item":"SECRET","hidden":1}')
    assert outcome.status == 502
    assert outcome.immediate is not None
    assert outcome.immediate.details == "response_body_violates_schema"
    assert b"item" not in (outcome.body or b"")
    assert b"SECRET" not in (outcome.body or b"")
    assert "SECRET" not in str(caplog.records[0].__dict__)
    assert caplog.records[0].__dict__["fields"]["violations"][0].startswith("/")
    assert respond(subject, b'{"item":"a"}').status == 200


def test_a_bad_response_can_be_only_reported(caplog: pytest.LogCaptureFixture) -> None:
    outcome = respond(policy(side="response", at={"on_violation": "report"}), b"not json")
    assert (outcome.status, outcome.body) == (200, b"not json")
    assert outcome.metadata["json_schema_validation"] == {"response": "body_not_json", "violations": 0}
    assert len(caplog.records) == 1


def test_which_responses_are_checked() -> None:
    subject = policy(side="response")
    assert respond(subject, b"{}", 404).status == 404
    assert respond(subject, b"", 204).status == 204
    assert respond(subject, b"", 200, "HEAD").status == 200
    assert respond(subject, b"", 200).status == 502
    assert respond(policy(side="response", at={"statuses": ["404"]}), b"{}", 404).status == 502


def test_a_large_body_is_checked_too() -> None:
    large = {"item": "a", "list": list(range(20_000))}
    assert post(policy(), large).reached_upstream
    assert post(policy(), {**large, "count": "x"}).status == 422


def test_hostile_bodies_take_linear_time() -> None:
    subject = policy({"properties": {"a": {"pattern": "^(a+)+$"}, "b": {"uniqueItems": True}}})
    began = time.process_time()
    assert post(subject, {"a": "a" * 50_000 + "!"}).status == 422
    assert post(subject, {"b": [{"x": n} for n in range(20_000)]}).reached_upstream
    assert time.process_time() - began < 10  # the alternatives take hours and minutes


FORMATS = {
    "date": (["2024-02-29"], ["2023-02-29", "20240229", "2024-02-29\n"]),
    "time": (["10:00:00Z", "00:59:60.5+01:00"], ["10:00:00", "24:00:00Z"]),
    "date-time": (["2024-01-01t10:00:00z"], ["2024-01-01 10:00:00Z", "2024-01-01"]),
    "duration": (["P1Y2M3DT4H", "PT0.5S", "P2W"], ["P", "PT", "P1D1Y"]),
    "email": (["a.b+c@d-e.example"], ["a@", "a b@c", "@c", "a@-c"]),
    "hostname": (["a.example"], ["a..b", "-a", "a" * 64]),
    "ipv4": (["192.0.2.1"], ["192.0.2.256", "192.0.2"]),
    "ipv6": (["::1", "2001:db8::"], ["1::2::3", "fe80::1%eth0"]),
    "uri": (["https://a/b?c#d", "urn:x"], ["/a", "http://a b", "http://%zz"]),
    "uri-reference": (["/a?b", ""], ["a b"]),
    "uuid": (["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000"]),
    "json-pointer": (["", "/a~1b"], ["a", "/~2"]),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str) -> None:
    good, bad = FORMATS[name]
    subject = policy({"format": name})
    assert [text for text in good if not post(subject, text).reached_upstream] == []
    assert [text for text in bad if post(subject, text).status != 422] == []
    assert post(subject, 1).reached_upstream
    assert post(policy({"format": name}, check_formats=False), bad[0]).reached_upstream


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,item1a\\u0', max_size=60).map(str.encode))
def test_no_bytes_make_it_fail_and_only_what_fits_gets_through(raw: bytes) -> None:
    outcome = post(policy(), raw)
    if outcome.reached_upstream:
        assert set(json.loads(raw)) <= {"item", "count", "mail", "list"}
    else:
        assert outcome.status in (400, 422)


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"pattern": "(?=a)"}, "/request/schema"),
        ({"patternProperties": {"(": {}}}, "/request/schema"),
        ({"properties": {"a": {"$ref": "https://example.com/x"}}}, "/request/schema/properties/a/$ref"),
        ({"$ref": "file:///etc/passwd"}, "/request/schema/$ref"),
        ({"$ref": "#/$defs/none"}, "/request/schema/$ref"),
        ({"$ref": "#/default", "default": {"pattern": "("}}, "/request/schema/$ref"),
        ({"$ref": "#"}, "/request/schema"),
        ({"type": "text"}, "/request/schema/type"),
        ({"properties": {"a": {"$id": "x"}}}, "/request/schema/properties/a/$id"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "/request/schema/$schema"),
        ({"format": "idn-email"}, "/request/schema/format"),
        ({"unevaluatedProperties": False, "patternProperties": {"a": {}}}, "/request/schema/unevaluatedProperties"),
    ],
)
def test_wrong_schemas(schema: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(schema)
    assert caught.value.path == path


def test_a_root_id_is_only_a_name() -> None:
    subject = policy(
        {"$id": "https://example.com/a", "$schema": "https://json-schema.org/draft/2020-12/schema", **SCHEMA}
    )
    assert post(subject, {"item": "a", "list": ["x"]}).status == 422


def test_a_schema_below_that_names_the_dialect_keeps_our_expressions() -> None:
    below = {"$schema": "https://json-schema.org/draft/2020-12/schema", "pattern": r"^\pL+$"}
    subject = policy({"properties": {"a": below}, "items": below})
    assert post(subject, {"a": "é"}).reached_upstream
    assert errors(post(subject, {"a": "1"})) == {"/a": r"must match ^\pL+$"}


def test_something_must_be_checked() -> None:
    with pytest.raises(ParameterError):
        load_policy(__file__, {})


NODE = {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}}}
TWO_WAYS: dict[str, Any] = {
    "anyOf": {"anyOf": [{**NODE, "required": ["a"]}, {**NODE, "required": ["b"]}, {"type": "integer"}]},
    "oneOf": {"oneOf": [{**NODE, "required": ["a"]}, {**NODE, "required": ["b"]}, {"type": "integer"}]},
    "allOf": {"allOf": [NODE, NODE, {"not": {"type": "null"}}]},
    "not": {"not": {"not": NODE}, **NODE},
    "if": {"if": {**NODE, "required": ["a"]}, "then": NODE, "else": NODE},
    "dependentSchemas": {**NODE, "dependentSchemas": {"child": NODE}},
    "unevaluatedProperties": {"anyOf": [NODE, NODE], "allOf": [NODE], "unevaluatedProperties": False},
    "dynamicRef": {
        "$dynamicAnchor": "node",
        "allOf": [
            {"properties": {"child": {"$dynamicRef": "#node"}}},
            {"properties": {"child": {"$dynamicRef": "#node"}}},
        ],
    },
}


@pytest.mark.parametrize("leaf", ["1", "{}", "null"])
@pytest.mark.parametrize("way", TWO_WAYS)
def test_a_schema_that_comes_back_to_itself_in_two_ways_costs_no_more_at_each_level(way: str, leaf: str) -> None:
    schema = {"$ref": "#/$defs/node", "$defs": {"node": TWO_WAYS[way]}}

    def cost(depth: int) -> float:
        checked = load_policy(__file__, {"request": {"schema": schema}})
        body = ('{"child":' * depth + leaf + "}" * depth).encode()
        begin = time.process_time()
        run(checked, request("POST", "/", headers={"content-type": "application/json"}, body=body))
        return time.process_time() - begin

    costs = [min(cost(depth) for _ in range(2)) for depth in (8, 16, 32)]
    assert costs[2] < 20 * max(costs[0], 0.02), costs


@pytest.mark.parametrize("way", ["anyOf", "oneOf", "allOf", "if"])
def test_what_a_reference_found_once_counts_each_time(way: str) -> None:
    """The same value under two branches is held against both, and a second value is not taken for the first."""
    schema = {"$ref": "#/$defs/node", "$defs": {"node": TWO_WAYS[way]}}
    policy = load_policy(__file__, {"request": {"schema": schema}})
    for document, fits in (
        ({"a": 1, "child": {"a": 1, "child": {"a": 1}}}, True),
        ({"a": 1, "child": {"a": 1, "child": "text"}}, False),
        ({"a": 1, "child": "text"}, False),
    ):
        body = json.dumps(document).encode()
        outcome = run(policy, request("POST", "/", headers={"content-type": "application/json"}, body=body))
        assert (outcome.status == 200) is fits, document
