"""Tests of our own in the form of cel-spec's, put as conditions."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from tools.conformance import cel_spec_suite
from tools.conformance.cel_literals import NoSuchValueError, equals, literal, plain
from tools.conformance.cel_spec_suite import cases
from tools.conformance.suite import Case
from tools.conformance.textproto import first, read


def outcome(test: str) -> Case:
    (found,) = cases(read(f'name: "file" section {{ name: "section" test {{ name: "a/b" {test} }} }}'))
    assert found.name == "file/section/a b"
    return found


@pytest.mark.parametrize(
    "test",
    [
        'expr: "1 < 2"',
        'expr: \'"a" == "b"\' value { bool_value: false }',
        'expr: "1 + 1" value { int64_value: 2 }',
        'expr: "1u + 1u" value { uint64_value: 2 }',
        'expr: "0.5 + 0.5" value { double_value: 1 }',
        "expr: \"'a' + 'b'\" value { string_value: \"ab\" }",
        'expr: "b\'\\\\x00\'" value { bytes_value: "\\000" }',
        'expr: "[1, 2]" value { list_value { values { int64_value: 1 } values { int64_value: 2 } } }',
        'expr: "{1: true}" value { map_value { entries { key { int64_value: 1 } value { bool_value: true } } } }',
        'expr: "type(1)" value { type_value: "int" }',
        'expr: "null" value { null_value: NULL_VALUE }',
        "expr: \"double('NaN')\" value { double_value: nan }",
        'expr: "-1.0 / 0.0" value { double_value: -inf }',
        'expr: "1 // a comment" value { int64_value: 1 }',
        "expr: \"duration('1s')\" value { object_value { [type.googleapis.com/google.protobuf.Duration] { seconds: 1 } } }",
        'expr: "1 / 0" eval_error { errors { message: "divide by zero" } }',
        'expr: "1 / 0 > 0" eval_error { errors { message: "divide by zero" } }',
        'expr: "1 + \'a\'" eval_error { errors { message: "no such overload" } }',
        'expr: "no_such(1)" eval_error { errors { message: "unbound function" } }',
        'expr: "x + 1" bindings { key: "x" value { value { int64_value: 2 } } } value { int64_value: 3 }',
        'expr: "x.y + \'x.y\'" bindings { key: "x.y" value { value { string_value: "a" } } } value { string_value: "ax.y" }',
        'expr: "[1].all(x, x == 1)"',
        'expr: "true" bindings { key: "true" value { value { bool_value: false } } }',
        'expr: "1 + 1" typed_result { result { int64_value: 2 } deduced_type { primitive: INT64 } }',
    ],
)
def test_what_goes_as_it_should(test: str) -> None:
    found = outcome(test)
    assert found.passed, found.detail


@pytest.mark.parametrize(
    ("test", "kind"),
    [
        ('expr: "1 < 1"', "another answer"),
        ('expr: "1 + 1" value { int64_value: 3 }', "another answer"),
        ('expr: "dyn(1)" value { double_value: 1 }', "another answer"),
        ('expr: "1" eval_error { errors { message: "overflow" } }', "another answer"),
        ('expr: "1 / 0" value { int64_value: 3 }', "failed"),
        ('expr: "math.abs(1)" value { int64_value: 1 }', "function"),
        ('expr: "math.abs(1)" eval_error { errors { message: "overflow" } }', "function"),
        ('expr: "y == 1"', "name"),
        ("expr: \"1 + 'a'\" value { int64_value: 1 }", "refused"),
        ('expr: "1 == 1.0" disable_check: true', "checked"),
        ('expr: "M{}" value { object_value { [type.googleapis.com/M] {} } }', "message"),
        ('expr: "x == 1" bindings { key: "x" value { value { object_value { [a/M] {} } } } }', "message"),
        ('expr: "x == 1u" bindings { key: "x" value { value { uint64_value: 1 } } }', "binding"),
        ('expr: "x == 1" bindings { key: "x" value { unknown { exprs: 1 } } }', "unknown"),
        ('expr: "y == 1" container: "x" bindings { key: "x.y" value { value { int64_value: 1 } } }', "container"),
        ('expr: "[1].all(x, x == 1)" bindings { key: "x" value { value { int64_value: 2 } } }', "shadowing"),
        ('expr: "[]" check_only: true typed_result { deduced_type { list_type {} } }', "type"),
        ('expr: "[[[[[[[[[[[[[1]]]]]]]]]]]]] != []"', "limit"),
    ],
)
def test_what_does_not_has_a_kind(test: str, kind: str) -> None:
    found = outcome(test)
    assert not found.passed
    assert found.kind == kind, found.detail


def test_the_short_cut_and_the_engine_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(condition: str, *, direct: bool = True) -> Any:
        return SimpleNamespace(evaluate=lambda request, response: direct)

    monkeypatch.setattr(cel_spec_suite, "_compile", compiled)
    found = outcome('expr: "1 < 2"')
    assert (found.passed, found.kind) == (False, "short cut")


@pytest.mark.parametrize(
    ("value", "text", "metadata"),
    [
        ('string_value: "a\\"\\\\\\n\\303\\277"', '"a\\U00000022\\U0000005c\\U0000000aÿ"', 'a"\\\nÿ'),
        ("int64_value: -5", "-5", -5),
        ("double_value: 5", "5.0", 5.0),
        ("bool_value: false", "false", False),
        ("null_value: NULL_VALUE", "null", None),
        ("list_value { values { int64_value: 1 } }", "[1]", [1]),
        ("list_value {}", "[]", []),
        ('map_value { entries { key { string_value: "a" } value { bool_value: true } } }', '{"a": true}', {"a": True}),
    ],
)
def test_values(value: str, text: str, metadata: Any) -> None:
    message = read(value)
    assert literal(message) == text
    assert plain(message) == metadata
    assert type(plain(message)) is type(metadata)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("seconds: 1 nanos: 5", 'duration("1.000000005s")'),
        ("seconds: -1 nanos: -5", 'duration("-1.000000005s")'),
        ("nanos: -5", 'duration("-0.000000005s")'),
    ],
)
def test_durations(value: str, text: str) -> None:
    assert literal(read(f"object_value {{ [type.googleapis.com/google.protobuf.Duration] {{ {value} }} }}")) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("seconds: 0", 'timestamp("1970-01-01T00:00:00.000000000Z")'),
        ("seconds: -62135596800", 'timestamp("0001-01-01T00:00:00.000000000Z")'),
        ("seconds: 1 nanos: 5", 'timestamp("1970-01-01T00:00:01.000000005Z")'),
    ],
)
def test_timestamps(value: str, text: str) -> None:
    assert literal(read(f"object_value {{ [type.googleapis.com/google.protobuf.Timestamp] {{ {value} }} }}")) == text


def test_a_number_is_compared_in_its_type() -> None:
    assert equals("x", read("int64_value: 1")) == "type(x) == int && (x) == 1"
    assert equals("x", {"double_value": [math.nan]}) == "type(x) == double && (x) != (x)"


@pytest.mark.parametrize(
    "value", ['bytes_value: "a"', "uint64_value: 1", "map_value { entries { key { int64_value: 1 } } }"]
)
def test_what_metadata_cannot_hold(value: str) -> None:
    with pytest.raises(NoSuchValueError, match="binding"):
        plain(read(value))


def test_messages_have_no_literal() -> None:
    with pytest.raises(NoSuchValueError, match="message"):
        literal(first(read("v { object_value { [type.googleapis.com/a.M] { b: 1 } } }"), "v"))
