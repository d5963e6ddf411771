"""Parameters against their schema: every violation with its path, defaults, and hostile input that stays harmless."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.worker.policies.json_data import MAX_DEPTH, MAX_TEXT, MAX_VALUES
from policy_engine.worker.policies.parameters import ParameterSchema, SchemaError


def violations(schema: dict[str, Any], parameters: Any) -> list[str]:
    found = ParameterSchema(schema).check(parameters).violations
    return [f"{one.pointer}: {one.reason}; {one.allowed}" for one in found]


def one(schema: dict[str, Any], value: Any) -> str:
    (found,) = violations({"properties": {"a": schema}}, {"a": value})
    return found


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        ({"type": "integer"}, "1", "/a: must be an integer, not text"),
        ({"type": "integer"}, True, "/a: must be an integer, not a boolean"),
        ({"type": ["string", "null"]}, 5, "/a: must be text or null, not an integer"),
        ({"enum": ["closed", "open"]}, "opne", "/a: is not one of the values allowed; did you mean 'open'?; closed, open"),
        ({"const": 1}, 2, "/a: is not the one value allowed; 1"),
        ({"minimum": 1}, 0, "/a: is too small; at least 1"),
        ({"exclusiveMaximum": 1}, 1, "/a: is too large; less than 1"),
        ({"multipleOf": 5}, 7, "/a: is not a multiple; a multiple of 5"),
        ({"minLength": 2}, "x", "/a: is too short; at least 2 characters"),
        ({"maxItems": 1}, [1, 2], "/a: has too many items; at most 1"),
        ({"uniqueItems": True}, [1, {"b": 1}, {"b": 1.0}], "/a/2: is the same as item 1; items must differ"),
        ({"contains": {"const": 1}}, [2], "/a: has no item of the kind it must contain"),
        ({"pattern": "^[a-z]+$"}, "A", "/a: does not have the right form; text that matches ^[a-z]+$"),
        ({"required": ["x"]}, {}, "/a: lacks the required 'x'"),
        ({"dependentRequired": {"x": ["y"]}}, {"x": 1}, "/a: lacks 'y', which is required together with 'x'"),
        ({"properties": {"count": {}}, "additionalProperties": False}, {"cuont": 1}, "/a/cuont: is not a known parameter; did you mean 'count'?; count"),
        ({"propertyNames": {"pattern": "^x-"}}, {"y": 1}, "/a/y: the name does not have the right form; text that matches ^x-"),
        ({"patternProperties": {"^x-": {"type": "string"}}}, {"x-a": 1}, "/a/x-a: must be text, not an integer"),
        ({"not": {"const": 1}}, 1, "/a: is of a kind that is excluded"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, 1, "/a: fits more than one of the alternatives"),
        ({"anyOf": [{"type": "string"}, {"type": "array"}]}, 1, "/a: fits none of the alternatives: must be text, not an integer; or must be a list"),
        ({"if": {"required": ["x"]}, "then": {"required": ["y"]}}, {"x": 1}, "/a: lacks the required 'y'"),
        ({"unevaluatedProperties": False}, {"x": 1}, "/a: has entries that are not allowed"),
        (False, 1, "/a: is not allowed here"),
    ],
)  # fmt: skip
def test_each_keyword_says_what_is_wrong(schema: Any, value: Any, said: str) -> None:
    assert one(schema, value).startswith(said)


def test_the_alternative_that_was_meant_is_the_one_explained() -> None:
    schema = {
        "oneOf": [
            {"properties": {"kind": {"const": "a"}, "n": {"type": "string"}}, "required": ["kind"]},
            {"properties": {"kind": {"const": "b"}, "n": {"type": "integer"}}, "required": ["kind"]},
        ]
    }
    assert one(schema, {"kind": "b", "n": "x"}) == "/a/n: must be an integer, not text; "


FORMATS: list[tuple[str, list[str], list[str]]] = [
    ("uri", ["https://a.example/x?y#z", "urn:a:b"], ["nowhere", "/relative", "https://a b", ""]),
    ("duration", ["PT5S", "PT0.5S", "P1D", "P1Y2M3DT4H5M6S", "P2W"], ["5s", "P", "PT", "P1.5D", ""]),
    ("email", ["a.b+c@example.com", "x@localhost"], ["a", "a@", "@b", "a b@c", "a@b c", ".a@b", "a..b@c"]),
    ("ipv4", ["127.0.0.1"], ["256.1.1.1", "1.2.3", "::1"]),
    ("ipv6", ["::1", "2001:db8::1"], ["127.0.0.1", ":::1", "fe80::1%eth0"]),
    ("regex", ["^a+$", r"\d{3}"], ["(?=a)", "(", r"(a)\1"]),
]


@pytest.mark.parametrize(("name", "good", "bad"), FORMATS)
def test_formats(name: str, good: list[str], bad: list[str]) -> None:
    schema = ParameterSchema({"properties": {"a": {"format": name}}})
    for text in good:
        assert schema.check({"a": text}).violations == (), text
    for text in bad:
        (found,) = schema.check({"a": text}).violations
        assert found.reason == f"is not of format {name}", text
    assert schema.check({"a": 5}).violations == ()


def test_every_violation_is_listed_in_the_order_of_places() -> None:
    schema = {
        "required": ["z"],
        "additionalProperties": False,
        "properties": {"a": {"items": {"type": "integer"}}, "b": {"minimum": 2}},
    }
    found = violations(schema, {"b": 1, "a": ["x", 1, *[0] * 9, "y"], "c": 1})
    assert [line.partition(":")[0] for line in found] == ["", "/a/0", "/a/11", "/b", "/c"]


def test_defaults_are_filled_in_deep() -> None:
    schema = {
        "$defs": {"item": {"properties": {"n": {"default": 1}, "deep": {"default": {}, "properties": {"m": {"default": 2}}}}}},
        "allOf": [{"properties": {"from-all": {"default": "x"}}}],
        "if": {"required": ["mode"], "properties": {"mode": {"const": "on"}}},
        "then": {"properties": {"level": {"default": 5}}},
        "properties": {
            "list": {"items": {"$ref": "#/$defs/item"}},
            "map": {"additionalProperties": {"$ref": "#/$defs/item"}},
            "absent": {"properties": {"n": {"default": 1}}},
            "choice": {"oneOf": [{"type": "string"}, {"required": ["k"], "properties": {"k": {"const": 2}, "d": {"default": 7}}}]},
        },
    }  # fmt: skip
    checked = ParameterSchema(schema).check(
        {"list": [{}, {"n": 5}], "map": {"x": {}}, "mode": "on", "choice": {"k": 2}}
    )
    assert checked.violations == ()
    assert checked.parameters == {
        "list": [{"n": 1, "deep": {"m": 2}}, {"n": 5, "deep": {"m": 2}}],
        "map": {"x": {"n": 1, "deep": {"m": 2}}},
        "mode": "on",
        "choice": {"k": 2, "d": 7},
        "from-all": "x",
        "level": 5,
    }


def test_a_required_parameter_with_a_default_need_not_be_given() -> None:
    schema = {"required": ["a"], "properties": {"a": {"default": 1}}}
    assert ParameterSchema(schema).check({}).parameters == {"a": 1}


def test_defaults_are_not_shared_between_checks() -> None:
    schema = ParameterSchema({"properties": {"a": {"default": []}}})
    schema.check({}).parameters["a"].append(1)
    assert schema.check({}).parameters == {"a": []}


def test_a_repeated_check_finds_the_same() -> None:
    schema = ParameterSchema({"properties": {"a": {"minimum": 1}, "k": {"writeOnly": True}, "t": {"enum": [1, True]}}})
    for parameters in ({"a": 0}, {"a": 1}, {"a": 1.0}, {"a": 0, "k": "x"}, {"t": 1}, {"t": True}, {"a": "x" * 5000}):
        assert repr(schema.check(parameters)) == repr(schema.check(parameters)), parameters
    assert schema.check({"t": True}).parameters["t"] is True
    assert schema.check({"t": 1}).parameters["t"] is not True


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer"},
        {"type": ["integer", "null"]},
        {"enum": [8, "auto"]},
        {"const": 8},
        {"$ref": "#/$defs/n"},
        {"allOf": [{"minimum": 1}, {"type": "integer"}]},
        {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1}]},
        {"if": {"minimum": 1}, "then": {"type": "integer"}},
    ],
)
def test_an_integer_is_an_int_however_it_is_written(schema: dict[str, Any]) -> None:
    whole = {
        "properties": {"a": schema, "l": {"items": schema}, "p": {"prefixItems": [True, schema]}},
        "patternProperties": {"^x-": {"additionalProperties": schema}},
        "$defs": {"n": {"type": "integer"}},
    }
    checked = ParameterSchema(whole).check({"a": 8.0, "l": [8, 8e0], "p": [8.0, 8.0], "x-y": {"z": 8.0}})
    assert checked.violations == ()
    assert repr(checked.parameters) == "{'a': 8, 'l': [8, 8], 'p': [8.0, 8], 'x-y': {'z': 8}}"


def test_a_default_that_is_an_integer_is_an_int_and_other_numbers_stay_as_they_are() -> None:
    schema = ParameterSchema(
        {
            "properties": {
                "a": {"type": "integer", "default": 3.0},
                "b": {"type": "number"},
                "c": {},
                "d": {"enum": [1.5]},
            }
        }
    )
    assert repr(schema.check({"b": 2.0, "c": 1.0, "d": 1.5}).parameters) == "{'b': 2.0, 'c': 1.0, 'd': 1.5, 'a': 3}"
    (found,) = schema.check({"a": 1e300}).violations
    assert (found.pointer, found.reason) == ("/a", "is too large a number")


def test_unevaluated_properties_see_through_references() -> None:
    schema = {
        "$defs": {"base": {"properties": {"x": {"type": "integer", "default": 4}}}},
        "$ref": "#/$defs/base",
        "properties": {"y": {}},
        "unevaluatedProperties": False,
    }
    checked = ParameterSchema(schema).check({"y": 1})
    assert checked.violations == ()
    assert checked.parameters == {"x": 4, "y": 1}
    assert violations(schema, {"x": 1, "z": 1}) == [": has entries that are not allowed; "]


def test_what_was_given_is_not_changed() -> None:
    given_parameters: dict[str, Any] = {"a": {}}
    ParameterSchema({"properties": {"a": {"properties": {"b": {"default": 1}}}}}).check(given_parameters)
    assert given_parameters == {"a": {}}


def test_write_only_values_are_secret_and_not_shown() -> None:
    schema = {
        "properties": {"a": {"items": {"properties": {"k": {"type": "string", "writeOnly": True, "minLength": 9}}}}}
    }
    checked = ParameterSchema(schema).check({"a": [{}, {"k": "hidden"}]})
    assert checked.secrets == {"/a/1/k"}
    assert checked.violations[0].value is None


@pytest.mark.parametrize("name", ["password", "client_secret", "clientSecret", "api-token"])
def test_values_under_a_secret_name_are_not_shown(name: str) -> None:
    (found,) = ParameterSchema({"properties": {name: {"minLength": 99}}}).check({name: "hidden"}).violations
    assert found.value is None


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "objct"}, "/type: "),
        ({"properties": {"a": {"minimum": "x"}}}, "/properties/a/minimum: must be a number"),
        ({"type": "string"}, "/type: parameters are an object"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "/$schema: is not the supported dialect"),
        ({"$id": "https://a.example/"}, "/$id: is not supported"),
        ({"properties": {"a": {"$ref": "#/$defs/x"}}}, "/properties/a/$ref: leads to no schema"),
        ({"properties": {"a": {"$ref": "https://a.example/x"}}}, "/properties/a/$ref: leads to no schema"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "/properties/a/$ref: leads to no schema"),
        ({"x-place": {"pattern": "("}, "properties": {"a": {"$ref": "#/x-place"}}}, "/properties/a/$ref: leads to no schema"),
        ({"properties": {"a": {"pattern": "(?=x)"}}}, "/properties/a/pattern: is not a regular expression RE2 can run"),
        ({"patternProperties": {"(": {}}}, "/patternProperties/(: is not a regular expression RE2 can run"),
        ({"properties": {"a": {"type": "integer", "default": "x"}}}, "/properties/a/default: the default breaks its own schema"),
        ({"patternProperties": {"a": {}}, "unevaluatedProperties": False}, "/unevaluatedProperties: cannot be combined"),
        ({"$ref": "#"}, "its references go round in a circle"),
        ({"$defs": {"n": {"properties": {"c": {"$ref": "#/$defs/n", "default": {}}}}}}, "fills itself in without end"),
    ],
)  # fmt: skip
def test_schemas_that_cannot_be_used(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(SchemaError) as caught:
        ParameterSchema(schema)
    assert said in str(caught.value)


def test_all_mistakes_of_a_schema_at_once() -> None:
    with pytest.raises(SchemaError) as caught:
        ParameterSchema({"properties": {"a": {"pattern": "("}, "b": {"$ref": "#/nope"}, "c": {"pattern": ")"}}})
    assert len(caught.value.violations) == 3


def test_the_drafts_own_metaschema_may_be_referred_to() -> None:
    schema = ParameterSchema({"properties": {"schema": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}})
    assert schema.check({"schema": {"type": "object"}}).parameters == {"schema": {"type": "object"}}
    assert schema.check({"schema": {"type": "objct"}}).violations


def test_recursive_schemas_follow_the_data() -> None:
    schema = ParameterSchema(
        {
            "$defs": {"n": {"type": "object", "properties": {"c": {"$ref": "#/$defs/n"}, "v": {"default": 1}}}},
            "$ref": "#/$defs/n",
        }
    )
    assert schema.check({"c": {"c": {}}}).parameters == {"c": {"c": {"v": 1}, "v": 1}, "v": 1}


def test_a_pattern_that_would_take_for_ever_in_python() -> None:
    assert one({"pattern": "^(a+)+$"}, "a" * 100_000 + "b").startswith("/a: does not have the right form")


def test_many_unique_items() -> None:
    assert violations({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"n": n} for n in range(20_000)]}) == []


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (nested(MAX_DEPTH + 1), "nested too deeply"),
        (nested(900), "nested too deeply"),
        ({"a": [0] * MAX_VALUES}, "too many values"),
        ({"a": "x" * (MAX_TEXT + 1)}, "too long"),
        ({"a": float("nan")}, "not a JSON number"),
        ({"a": "\ud800"}, "not valid Unicode"),
        ({1: "a"}, "not text"),
        ({"a": object()}, "not JSON data"),
        ([], "must be an object"),
        (None, "must be an object"),
    ],
)
def test_hostile_parameters_are_refused_before_the_schema_sees_them(parameters: Any, said: str) -> None:
    assert any(said in found for found in violations({}, parameters))


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abkn") | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)
BUSY = ParameterSchema(
    {
        "type": "object",
        "required": ["k"],
        "additionalProperties": {"$ref": "#/$defs/any"},
        "propertyNames": {"maxLength": 6},
        "properties": {
            "a": {"uniqueItems": True, "items": {"$ref": "#/$defs/any"}},
            "n": {"type": "number", "default": 1},
        },
        "$defs": {
            "any": {
                "anyOf": [
                    {"type": ["string", "null"], "pattern": "^[a-z]*$"},
                    {"type": "array", "items": {"$ref": "#/$defs/any"}, "maxItems": 2},
                    {"type": "object", "properties": {"b": {"$ref": "#/$defs/any"}, "k": {"const": 1, "default": 1}}},
                ]
            }
        },
    }
)


@given(st.dictionaries(st.sampled_from("abkn") | st.text(max_size=8), ANY, max_size=5))
def test_any_parameters_are_checked_and_a_filled_result_stays_valid(parameters: dict[str, Any]) -> None:
    checked = BUSY.check(parameters)
    for violation in checked.violations:
        assert violation.reason
    if not checked.violations:
        again = BUSY.check(checked.parameters)
        assert again.violations == ()
        assert again.parameters == checked.parameters


@pytest.mark.parametrize("unlinked", [{}, {"unevaluatedProperties": True}])
def test_a_named_dialect_is_checked_by_the_same_keywords(unlinked: dict[str, Any]) -> None:
    schema = ParameterSchema(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "additionalProperties": False,
            "properties": {"a": {"$ref": "#/$defs/b"}},
            "$defs": {"b": {"properties": {"c": {"pattern": "^x$"}}, "additionalProperties": False, **unlinked}},
        }
    )
    assert {(one.pointer, one.reason) for one in schema.check({"a": {"c": "y", "d": 1}, "e": 1}).violations} == {
        ("/a/c", "does not have the right form"),
        ("/a/d", "is not a known parameter"),
        ("/e", "is not a known parameter"),
    }


@pytest.mark.parametrize("value", [19.99, 4.02, 0.07, 10.2, 10**19])
def test_multiples_count_in_decimals(value: float) -> None:
    assert violations({"properties": {"a": {"multipleOf": 0.01}}}, {"a": value}) == []


@pytest.mark.parametrize("value", [19.999, 10**19 + 1])
def test_what_is_no_multiple_is_told(value: float) -> None:
    assert "not a multiple" in one({"multipleOf": 0.01 if isinstance(value, float) else 2}, value)


@pytest.mark.parametrize(
    ("schema", "pointer", "said"),
    [
        ({"definitions": {}}, "/definitions", r"\$defs"),
        ({"properties": {"a": {"dependencies": {}}}}, "/properties/a/dependencies", "dependentRequired"),
        ({"properties": {"a": {"minimun": 1}}}, "/properties/a/minimun", "'minimum'"),
        ({"properties": {"a": {"nullable": True}}}, "/properties/a/nullable", "null"),
        ({"properties": {"a": {"format": "phone"}}}, "/properties/a/format", "not a format"),
    ],
)
def test_words_that_would_be_ignored_are_refused(schema: dict[str, Any], pointer: str, said: str) -> None:
    with pytest.raises(SchemaError, match=said) as caught:
        ParameterSchema(schema)
    assert caught.value.violations[0].pointer == pointer


def test_notes_of_one_s_own_are_possible() -> None:
    assert violations({"x-owner": "orders", "properties": {"a": {"x-note": 1}}}, {"a": 1}) == []
