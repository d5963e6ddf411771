"""Conditions given hostile texts and values: a result or a clear error, never a crash, loop or leaked secret (R-10)."""

from __future__ import annotations

import contextlib
from enum import Enum, IntEnum
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from policy_engine.sdk import Headers, Request
from policy_engine.worker.conditions import celcpp, celpy
from policy_engine.worker.conditions.condition import (
    ConditionError,
    ConditionRefused,
    Engine,
    check_condition,
)
from policy_engine.worker.conditions.source import VARIABLES
from testsupport.conditions_corpus import (
    sample_request,
    sample_response,
)
from testsupport.conditions_engines import ENGINES, both, compiled, outcome, request_with

# Hostile values


@both
@pytest.mark.parametrize("path", [b"/admin\0x", b"/admin\xff", b"/admin\xed\xa0\x80"])
def test_bytes_of_the_client_neither_cut_a_text_nor_fail_a_condition(path: bytes, engine: Engine) -> None:
    request = request_with(path=path)
    assert not compiled('request.path == "/admin"', engine).evaluate(request)
    assert compiled('request.path.startsWith("/admin") && size(request.path) > 6', engine).evaluate(request)


@both
def test_a_decoded_nul_in_the_query_does_not_cut_the_value(engine: Engine) -> None:
    request = request_with(path="/?role=user%00admin")
    assert not compiled('request.query.role == "user"', engine).evaluate(request)
    assert not compiled('request.query.exists(n, request.query[n] == "user")', engine).evaluate(request)


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Name(str):
    def __str__(self) -> str:
        return "another"


def _circle() -> dict[str, Any]:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    return circle


def _deep() -> Any:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    return value


@both
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "holds a object"),
        ({1, 2}, "holds a set"),
        (Colour.RED, "holds a Colour"),
        (b"a", "holds a bytes"),
        (2**63, "outside 64 bits"),
        ({1: 2}, "a int as key"),
        (_circle(), "nested more than"),
        (_deep(), "nested more than"),
        (list(range(5000)), "more than 2000 values"),
    ],
    ids=["object", "set", "enum", "bytes", "large", "key", "circle", "deep", "long"],
)
def test_unusable_metadata_is_a_condition_error(value: Any, reason: str, engine: Engine) -> None:
    with pytest.raises(ConditionError, match=reason):
        compiled("metadata.v == metadata.v", engine).evaluate(request_with({"v": value}))
    with pytest.raises(ConditionError, match=reason):
        compiled("size(metadata) == 1", engine).evaluate(request_with({"v": value}))


@both
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Level.HIGH, "metadata.v == 3"),
        (Name("plain"), 'metadata.v == "plain"'),
        ((1, 2), "metadata.v == [1, 2]"),
        ({"a": (1,)}, "metadata.v.a[0] == 1"),
        (-(2**63), "metadata.v < 0"),
        ("a\udc80b", 'metadata.v == "a\ufffdb"'),
        (float("inf"), "metadata.v > 1.0"),
    ],
)
def test_usable_metadata(value: Any, text: str, engine: Engine) -> None:
    assert compiled(text, engine).evaluate(request_with({"v": value}))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@both
@given(metadata=st.dictionaries(st.sampled_from(["v", "w", "x"]), json_values))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_metadata_gives_a_result_or_a_condition_error(metadata: dict[str, Any], engine: Engine) -> None:
    request = Request(Headers.of({}), metadata=metadata)
    for condition in _METADATA_CONDITIONS[engine.NAME]:
        with contextlib.suppress(ConditionError):
            assert condition.evaluate(request) in {True, False}


_METADATA_CONDITIONS = {
    engine.NAME: [
        compiled(text, engine)
        for text in ("metadata.v == metadata.w", "metadata.exists(n, metadata[n] == n)", "metadata.v", "metadata.v > 1")
    ]
    for engine in ENGINES
}


@both
def test_collections_of_the_client_are_bounded(engine: Engine) -> None:
    query = request_with(path="/?" + "&".join(f"p{n}" for n in range(1001)))
    with pytest.raises(ConditionError, match="query parameters"):
        compiled("size(request.query) > 1", engine).evaluate(query)
    headers = Request(Headers.of({f"h{n}": "v" for n in range(1001)}))
    with pytest.raises(ConditionError, match="more than 1000 headers"):
        compiled("size(request.headers) > 1", engine).evaluate(headers)
    assert compiled('request.headers.h5 == "v"', engine).evaluate(headers)


@both
@pytest.mark.parametrize("others", [1001, 5000])
def test_a_single_look_up_does_not_depend_on_how_many_others_there_are(engine: Engine, others: int) -> None:
    rest = "&".join(f"p{n}" for n in range(others))
    for target in (f"/?skip=1&{rest}", f"/?{rest}&skip=1"):
        query = request_with(path=target)
        assert compiled('"skip" in request.query', engine).evaluate(query)
        assert compiled('"skip" in request.query && request.query["skip"] == "1"', engine).evaluate(query)
        assert not compiled('"other" in request.query', engine).evaluate(query)
    assert not compiled('"skip" in request.query', engine).evaluate(request_with(path=f"/?{rest}" + "&" * 2000))


@both
def test_the_steps_of_macros_are_bounded(engine: Engine) -> None:
    condition = compiled("metadata.l.all(x, metadata.l.all(y, x == y))", engine)
    assert condition.evaluate(request_with({"l": [1] * 50}))
    with pytest.raises(ConditionError, match="too many elements"):
        condition.evaluate(request_with({"l": [1] * 1500}))


SECRET = "s3cr3t-of-the-client"


@both
@pytest.mark.parametrize(
    "text",
    [
        'request.headers[request.headers.authorization] == "a"',
        "int(request.headers.authorization) == 1",
        "timestamp(request.headers.authorization) > timestamp(0)",
        "metadata.user[request.headers.authorization] == 1",
        "metadata.secret + 1 == 2",
        "metadata.secret",
        "metadata.user.key.deeper",
        "metadata.unusable == 1",
        "size(metadata) == 1",
        "bool(request.headers.authorization)",
    ],
)
def test_errors_and_logs_hold_nothing_of_the_request(
    text: str, engine: Engine, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    metadata = {"secret": SECRET, "user": {"key": SECRET}, "unusable": {SECRET}}
    request = request_with(metadata, authorization=SECRET)
    with pytest.raises(ConditionError) as caught:
        compiled(text, engine).evaluate(request)
    assert SECRET not in str(caught.value)
    assert SECRET not in caplog.text
    assert SECRET not in "".join(capfd.readouterr())


# Hostile texts

literals = ["true", "1", "-1", "1.5", "2u", '"a"', "'b'", 'r"c"', 'b"d"', '"""e"""', "null", "[]", "{}"]
words = ["x", "has", "size", "matches", "exists", "all", "map", "in", "int", "dyn"]
signs = [*"()[]{}.,?:!<+-*/%\\\"'` \n\tü😀", "&&", "||", "==", "//"]
fragments = st.sampled_from([*VARIABLES, *literals, *words, *signs])
texts = st.text() | st.lists(fragments, max_size=40).map("".join) | st.lists(fragments, max_size=40).map(" ".join)


@both
@given(text=texts)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=400)
@example(text="!" * 4000 + "true")
@example(text="-" * 4000 + "1 == 1")
@example(text="+".join(["1"] * 2000) + " == 1")
@example(text="||".join(["true"] * 600))
@example(text="true?" * 400 + "true" + ":true" * 400)
@example(text="metadata" + ".a" * 2000)
@example(text="metadata" + "[0]" * 1300)
@example(text="(" * 4000)
@example(text='"' * 4000)
@example(text='"\\' * 2000)
@example(text="'''" + "\\'" * 2000)
@example(text="request.path.matches('" + "(a*)*" * 500 + "')")
@example(text="request.path.matches('((a{100}){100}){100}')")
@example(text="ERROR: <input>:9:9: x")
@example(text="'" + "ERROR: <input>:9:9: x" + "' == 1")
def test_any_text_gives_a_condition_or_problems(text: str, engine: Engine) -> None:
    problems = check_condition(text, phase_has_response=True, engine=engine)
    for problem in problems:
        assert problem.line >= 1
        assert problem.column >= 1
        assert "\x1b" not in str(problem)
    if not problems:
        with contextlib.suppress(ConditionError):
            assert compiled(text, engine).evaluate(sample_request(), sample_response()) in {True, False}


@given(text=texts)
@settings(deadline=None, max_examples=400)
def test_every_variable_the_engine_needs_is_bound(text: str) -> None:
    # The C++ engine says so by name when a variable is missing; our reason for it is the general one.
    try:
        condition = compiled(text)
    except ConditionRefused:
        return
    data = {
        name: read(sample_request(), sample_response())
        for name, read in condition._variables._readers
        if name != "metadata"
    }
    data |= {"metadata": {}} if any(name == "metadata" for name, _ in condition._variables._readers) else {}
    result = celcpp._ENVIRONMENT.compile(text).eval(None, data)
    assert "in Activation" not in str(result.value())


def _grammar() -> st.SearchStrategy[str]:
    """Well-typed conditions; without the operators on errors and times that `DIFFERENCES` is about."""
    variables = ["request.path", "request.method", "request.host", "request.query.q", "metadata.user.name"]
    missing = ['request.headers["x-none"]', "request.query.none", "metadata.none"]
    text = st.sampled_from([*variables, *missing, 'request.headers["x-tenant"]', '"acme"', "'ü'", "'a'"])
    number = st.sampled_from(["response.status", "metadata.count", "metadata.user.age", "0", "3", "41", "-7"])
    number |= text.map("size({})".format)
    number = st.tuples(number, st.sampled_from(["+", "-", "*", "/", "%"]), number).map(" ".join) | number
    relation = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    atoms = st.sampled_from(["true", "false", "metadata.flag", "metadata.off", "has(metadata.user.email)"])
    atoms |= st.tuples(text, relation, text).map(" ".join) | st.tuples(number, relation, number).map(" ".join)
    atoms |= st.builds("{}.{}({})".format, text, st.sampled_from(["startsWith", "endsWith", "contains"]), text)
    atoms |= st.builds("{} in [{}, {}]".format, text, text, text)
    atoms |= st.builds("[{}, {}].{}(x, x == {})".format, text, text, st.sampled_from(["exists", "all"]), text)
    return st.recursive(
        atoms,
        lambda inner: (
            st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "||"]), inner)
            | st.builds("({} ? {} : {})".format, inner, inner, inner)
            | inner.map("!({})".format)
        ),
        max_leaves=6,
    )


@given(text=_grammar())
@settings(deadline=None, max_examples=200)
def test_both_engines_agree_on_generated_conditions(text: str) -> None:
    assert outcome(text, celpy) == outcome(text, celcpp)
