"""Conditions evaluated without an engine give what the engine gives: results and errors (R-10)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import Headers, Request, Response
from policy_engine.worker.conditions import celcpp, celpy
from policy_engine.worker.conditions.condition import Condition, ConditionError, compile_condition, compile_text
from policy_engine.worker.conditions.direct import compile_direct, compile_direct_text
from policy_engine.worker.conditions.source import read_source
from testsupport.conditions_corpus import CORPUS, ERROR, REFUSED, Outcome, sample_request, sample_response

_HAS_RESULT = [text for text, expected in CORPUS if expected != REFUSED]
_DIRECT = [text for text in _HAS_RESULT if compile_direct(read_source(text)) is not None]


def result(condition: Condition, request: Request, response: Response) -> Outcome:
    try:
        return condition.evaluate(request, response)
    except ConditionError:
        return ERROR


def both_ways(text: str, request: Request, response: Response) -> tuple[Outcome, Outcome]:
    direct = compile_condition(text, phase_has_response=True)
    engine = compile_condition(text, phase_has_response=True, direct=False)
    return result(direct, request, response), result(engine, request, response)


@pytest.mark.parametrize("text", _DIRECT)
def test_the_corpus_has_the_same_results(text: str) -> None:
    direct, engine = both_ways(text, sample_request(), sample_response())
    assert direct == engine
    direct, engine = both_ways(text, Request(Headers()), Response(Headers()))
    assert direct == engine


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('request.headers["x-no"] == "a" || request.method == "POST"', True),
        ('request.headers["x-no"] == "a" || request.method == "GET"', ERROR),
        ('request.method == "POST" || request.headers["x-no"] == "a"', True),
        ('request.method == "GET" || request.headers["x-no"] == "a"', ERROR),
        ('request.headers["x-no"] == "a" && request.method == "GET"', False),
        ('request.headers["x-no"] == "a" && request.method == "POST"', ERROR),
        ('request.method == "GET" && request.headers["x-no"] == "a"', False),
        ('request.method == "POST" && request.headers["x-no"] == "a"', ERROR),
        ('!(request.headers["x-no"] == "a")', ERROR),
    ],
)
def test_an_error_beside_what_decides_is_none(text: str, expected: Outcome) -> None:
    assert compile_direct(read_source(text)) is not None
    assert both_ways(text, sample_request(), sample_response()) == (expected, expected)


def test_the_usual_conditions_are_among_them() -> None:
    for text in (
        'request.path.startsWith("/api") && request.method == "POST"',
        '!(request.method in ["GET", "HEAD", "OPTIONS"])',
        '"x-tenant" in request.headers && request.headers["x-tenant"] == "acme"',
        "response.status >= 500 || response.status == 429",
        'response.origin != "upstream" && response.status == 404',
    ):
        assert compile_direct(read_source(text)) is not None, text


@pytest.mark.parametrize(
    "text",
    [
        'request.path == "/a" ? true : false',
        'request.path.matches("^/a")',
        'request.path + "x" == "/ax"',
        'request.path == "\\u0041"',
        "request.path == request.target",
        'metadata.user == "ann"',
        "metadata.count == 3",
        '(request.path == "/a") == true',
        'request.path == "/a" && true',
        '["/a"] == ["/a"]',
        'request.path in ["/a", request.target]',
        "request.path == 'a\r'",
        '!request.path.startsWith("/a")',
    ],
)
def test_what_is_not_surely_known_is_left_to_the_engine(text: str) -> None:
    assert compile_direct(read_source(text)) is None


_texts = st.sampled_from(["", "/", "/api", "/api/v1", "GET", "POST", "acme", "a,b", "ü", "\ufffd"])
_quoted = _texts.map(lambda one: f'"{one}"')
_variables = st.sampled_from(
    ["request.path", "request.method", "request.host", 'request.headers["x-a"]', 'response.headers["x-a"]']
)
_relations = st.one_of(
    st.builds("{} {} {}".format, _variables, st.sampled_from(["==", "!="]), _quoted),
    st.builds("{}.{}({})".format, _variables, st.sampled_from(["startsWith", "endsWith", "contains"]), _quoted),
    st.builds("{} in [{}, {}]".format, _variables, _quoted, _quoted),
    st.builds("{} in {}".format, st.sampled_from(['"x-a"', '"x-b"']), st.sampled_from(["request.headers"])),
    st.builds(
        "response.status {} {}".format,
        st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
        st.sampled_from(["0", "200", "404", "0404"]),
    ),
)
_expressions = st.recursive(
    _relations,
    lambda inner: st.one_of(
        st.builds("{} && {}".format, inner, inner),
        st.builds("{} || {}".format, inner, inner),
        st.builds("!({})".format, inner),
        st.builds("({})".format, inner),
    ),
    max_leaves=6,
)
_values = st.one_of(_texts.map(str.encode), st.sampled_from([b"\xff", b"/api\0x", b"/\xed\xa0\x80"]))
_requests = st.builds(
    lambda path, method, fields: Request(Headers([(":path", path), (":method", method), *fields])),
    _values,
    _values,
    st.lists(st.tuples(st.sampled_from(["x-a", "x-b"]), _values), max_size=3),
)
_responses = st.builds(
    lambda status, fields: Response(Headers([(":status", status), *fields])),
    st.sampled_from([b"200", b"404", b"", b"x"]),
    st.lists(st.tuples(st.just("x-a"), _values), max_size=2),
)


@given(text=_expressions, request=_requests, response=_responses)
def test_any_expression_of_these_forms_has_the_same_result(text: str, request: Request, response: Response) -> None:
    assert compile_direct(read_source(text)) is not None
    direct, engine = both_ways(text, request, response)
    assert direct == engine


_words = st.sampled_from(
    [
        *("request.path", "request.headers", "response.status", "response.headers", "metadata", "request", "path", "x"),
        *('"/a"', "'x-a'", 'r"\\d"', '"""a\nb"""', 'b"a"', '"\\n"', "'a\r'", '""', "404", "0404", "1.5", "9" * 18),
        *("9" * 19, "0x1F", "1u", "-1", "true", "null"),
        *("&&", "||", "!", "==", "!=", "<", ">=", "in", "?", ":", "+", ".", ",", "(", ")", "[", "]", "{", "}"),
        *("startsWith", "contains", "matches", "size", "// no more\n", "\f"),
    ]
)
_mutated = st.builds(
    lambda text, place, cut, words: " ".join([text[:place], *words, text[place + cut :]]),
    _expressions,
    st.integers(0, 60),
    st.integers(0, 6),
    st.lists(_words, max_size=3),
)


@given(text=st.one_of(_mutated, st.lists(_words, max_size=9).map(" ".join)))
def test_what_needs_no_engine_is_what_an_engine_takes_too(text: str) -> None:
    source = read_source(text)
    if source.problems or compile_direct(source) is None:
        return
    for engine in (celcpp, celpy):
        compile_condition(text, phase_has_response=True, engine=engine, direct=False)


@pytest.mark.parametrize("text", ["request.host", 'request.headers["x-a"]', "request . path", "request.id // the id"])
def test_a_text_that_needs_no_engine_is_what_an_engine_takes_too(text: str) -> None:
    assert compile_direct_text(read_source(text)) is not None
    compile_text(text, direct=False)


def test_numbers_beyond_those_of_cel_are_left_to_the_engine() -> None:
    assert compile_direct(read_source(f"response.status == {'9' * 18}")) is not None
    assert compile_direct(read_source(f"response.status == {'9' * 19}")) is None


def test_a_process_whose_conditions_need_no_engine_has_none() -> None:
    program = (
        "import sys\nfrom policy_engine.worker.conditions.condition import check_condition\n"
        "def check(text): assert not check_condition(text, phase_has_response=True), text\n"
        "check('request.method == \"GET\"')\nprint('cel_expr_python' in sys.modules)\n"
        "check('size(request.method) == 3')\nprint('cel_expr_python' in sys.modules)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["False", "True"]
