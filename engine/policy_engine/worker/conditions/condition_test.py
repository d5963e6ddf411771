"""Conditions: both engines against the corpus, refusals with carets, what is bound, threads, memory (R-10)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import Headers, Request, Response
from policy_engine.worker.conditions import celcpp, celpy
from policy_engine.worker.conditions.condition import (
    ENGINE,
    ConditionError,
    Engine,
    check_condition,
)
from policy_engine.worker.conditions.source import MAX_LENGTH, MAX_NESTING, VARIABLES, read_source
from testsupport.conditions_corpus import (
    CORPUS,
    DIFFERENCES,
    REFUSED,
    Outcome,
    sample_request,
    sample_response,
)
from testsupport.conditions_engines import both, compiled, outcome, request_with

# The corpus


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('request.path == "/" and request.method == "GET"', "write `&&`"),
        ('request.path == "/" AND request.method == "GET"', "write `&&`"),
        ('(request.path == "/") or (request.method == "GET")', "write `||`"),
        ('request.path == "/" or not "x" in request.headers', "write `||`"),
        ('not ("x" in request.headers)', "write `!`"),
        ('not "x" in request.headers', "write `!`"),
        ('not !("x" in request.headers)', "write `!`"),
        ('request.method is "GET"', "write `==`"),
        ('request.method = "GET"', "`==`"),
        ('request.method <> "GET"', "write `!=`"),
        ('request.path == "/" & request.method == "GET"', "write `&&`"),
        ('request.path == "/" | request.method == "GET"', "write `||`"),
        ("request.path == \u201c/\u201d", "texts stand in"),
        ("request.path == \u2018/\u2019", "texts stand in"),
        ('request.path == "/', "unterminated text"),
    ],
)
def test_operators_of_other_languages_have_a_hint(text: str, hint: str) -> None:
    problems = check_condition(text, phase_has_response=False)
    assert hint in problems[0].message, problems


@pytest.mark.parametrize(
    "text",
    [
        '"and" in request.headers',
        'request.headers.and == "x"',
        'has(request.headers.or) && request.query.not == ""',
        '["a", "or"].exists(or, or == request.path)',
        'request.path == "this and that or not <>"',
        "1 < 2 && 2 > 1",
    ],
)
def test_those_words_where_they_may_stand(text: str) -> None:
    assert check_condition(text, phase_has_response=False) == []


def test_the_corpus_is_large_and_without_repetition() -> None:
    texts = [text for text, _ in CORPUS]
    assert len(texts) >= 150
    assert len(set(texts)) == len(texts)
    assert set(DIFFERENCES) <= set(texts)
    mentioned = {name for text in texts for name in read_source(text).variables}
    assert mentioned == set(VARIABLES)


@pytest.mark.parametrize(("text", "expected"), CORPUS, ids=[text[:60] for text, _ in CORPUS])
def test_cel_expr_python_gives_the_expected_result(text: str, expected: Outcome) -> None:
    assert outcome(text, celcpp) == expected


@pytest.mark.parametrize(("text", "expected"), CORPUS, ids=[text[:60] for text, _ in CORPUS])
def test_cel_python_gives_the_same_result_but_for_the_listed_differences(text: str, expected: Outcome) -> None:
    assert outcome(text, celpy) == DIFFERENCES.get(text, (expected,))[0]


@both
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('request.headers["x-none"] == "a"', "no such key in a map"),
        ("metadata.none == 1", "no such key in a map"),
        ("1 / 0 == 1", "division by zero"),
        ("1 % 0 == 1", "division by zero"),
        ('metadata.count + "a" == "3a"', "an operator or function does not fit the types it got"),
        ("metadata.numbers[9] == 2", "no such index in a list"),
        ("metadata.count", "the result is not true or false but of type int"),
        ("metadata.raw == b'a'", 'metadata["raw"] holds a bytes, which a condition cannot use'),
    ],
)
def test_both_engines_name_a_run_time_error_alike(text: str, reason: str, engine: Engine) -> None:
    with pytest.raises(ConditionError) as caught:
        compiled(text, engine).evaluate(sample_request(), sample_response())
    assert caught.value.reason == reason
    assert caught.value.expression == text
    assert text in str(caught.value)


# Refusals


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            'request.method == "GET" &&\n  request.pth == "/"',
            "line 2, column 3: unknown name `request.pth`; did you mean `request.path` or `request.method`?\n"
            '    request.pth == "/"\n'
            "    ^",
        ),
        (
            "request.path + 1 == 2",
            "line 1, column 14: found no matching overload for '_+_' applied to '(string, int)'\n"
            "  request.path + 1 == 2\n"
            "               ^",
        ),
        (
            "request.id request.path",
            "line 1, column 12: Syntax error: mismatched input 'request' expecting the end\n"
            "  request.id request.path\n"
            "             ^",
        ),
        (
            'request.path.startWith("/")',
            "line 1, column 14: unknown function `startWith`; did you mean `startsWith`?\n"
            '  request.path.startWith("/")\n'
            "               ^",
        ),
        (
            'true && request.headers["X-A"] == "b"',
            "line 1, column 9: header names are lower case; write `x-a` for `X-A`\n"
            '  true && request.headers["X-A"] == "b"\n'
            "          ^",
        ),
        (
            "request.path",
            "line 1, column 1: the condition must be true or false, but it is of type string\n  request.path\n  ^",
        ),
        (
            'request.path.matches("(a")',
            "line 1, column 22: not a valid RE2 regular expression\n"
            '  request.path.matches("(a")\n'
            "                       ^",
        ),
    ],
)
def test_a_refusal_shows_the_place(text: str, shown: str) -> None:
    assert [str(problem) for problem in check_condition(text, phase_has_response=True)] == [shown]


def test_all_problems_are_listed_at_once() -> None:
    problems = check_condition("request.pth == 'a' && reqest.path == 'b' && 1 + 'a' == 2", phase_has_response=True)
    assert [problem.column for problem in problems] == [1, 23, 47]


@both
def test_an_unknown_name_is_found_by_both_engines_at_the_same_place(engine: Engine) -> None:
    problems = check_condition("true &&\n request.pth == 'a'", phase_has_response=True, engine=engine)
    assert [(one.line, one.column) for one in problems] == [(2, 2)]
    assert "did you mean `request.path`" in problems[0].message


@pytest.mark.parametrize("text", [None, True, 5, ["a"]])
def test_a_value_that_is_no_text_is_refused(text: Any) -> None:
    (problem,) = check_condition(text, phase_has_response=True)
    assert "put it in quotes" in problem.message


@both
@pytest.mark.parametrize("text", ["response.status == 200", '"etag" in response.headers', ".response.status == 1"])
def test_the_response_is_refused_for_a_policy_with_request_hooks(text: str, engine: Engine) -> None:
    (problem,) = check_condition(text, phase_has_response=False, engine=engine)
    assert "this policy has request hooks" in problem.message
    assert check_condition(text, phase_has_response=True, engine=engine) == []


def test_a_metadata_field_called_response_is_not_the_response() -> None:
    assert check_condition("metadata.response.status == 1", phase_has_response=False) == []


@both
def test_a_response_condition_without_a_response_is_an_error(engine: Engine) -> None:
    condition = compiled("response.status == 200", engine)
    assert condition.uses_response
    with pytest.raises(ConditionError, match="no response in this phase"):
        condition.evaluate(sample_request(), None)


@both
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("true" + " " * MAX_LENGTH, "characters; at most"),
        ("(" * (MAX_NESTING + 1) + "true" + ")" * (MAX_NESTING + 1), "nested more than"),
        ("[[[1]]].exists(a, a.exists(b, b.exists(c, c == 1)))", "macros are nested"),
        ("true\0", "NUL or surrogate"),
        ('"\ud800" == "a"', "NUL or surrogate"),
        ("request.path.matches(request.id)", "must be a text literal"),
    ],
)
def test_limits(text: str, message: str, engine: Engine) -> None:
    (problem,) = check_condition(text, phase_has_response=True, engine=engine)
    assert message in problem.message


@both
def test_the_deepest_allowed_nesting_works(engine: Engine) -> None:
    text = "(" * MAX_NESTING + "request.path == '/'" + ")" * MAX_NESTING
    assert compiled(text, engine).evaluate(request_with())


# What is bound


def test_only_what_is_mentioned_is_read() -> None:
    def never() -> dict[str, list[bytes]]:
        pytest.fail("headers were decoded for a condition that does not use them")

    request = Request(Headers.lazy(never), route="shop", metadata={"a": True})
    assert compiled('request.route == "shop" && metadata.a').evaluate(request)


def test_only_the_metadata_that_is_mentioned_is_copied() -> None:
    request = request_with({"a": 1, "unusable": object(), "huge": list(range(100_000))})
    assert compiled('metadata.a == 1 && metadata["a"] < 2 && "a" in metadata').evaluate(request)
    with pytest.raises(ConditionError, match="holds a object"):
        compiled("metadata.unusable == 1").evaluate(request)
    with pytest.raises(ConditionError, match="more than 2000 values"):
        compiled("metadata.huge[0] == 0").evaluate(request)


names = st.sampled_from(["a", "b", "x-y", "cookie", "in", "has"])


@given(
    present=st.dictionaries(names, st.sampled_from(["", "a", "b,c"])),
    name=names,
    form=st.sampled_from(
        [
            '"{0}" in {1}',
            "has({1}.a)",
            '{1}.b == "a"',
            '!("{0}" in {1})',
            'true ? "{0}" in {1} : false',
            '{1}["{0}"] == "a"',
            "{1}['''{0}'''] == 'a' || false",
            '"{0}" in {1} && {1}[r"{0}"] == "a"',
            '"{0}" + "" in {1}',
            '{1}["{0}" + ""] == "a"',
            '"a" + "{0}" in {1}',
            '{1} == {{"{0}": "a"}}',
            '{1}.exists(x, x == "{0}")',
            'size({1}) == 1 && "{0}" in {1}',
            '["{0}" in {1}, true][0]',
            '{{"{0}" in {1}: true}}[true]',
            '{1}["{0}"].startsWith("a") == "{0}" in {1} || true',
        ]
    ),
    variable=st.sampled_from(["request.headers", "request.query", "metadata"]),
)
def test_binding_single_entries_gives_what_the_whole_map_gives(
    present: dict[str, str], name: str, form: str, variable: str
) -> None:
    query = "&".join(f"{key}={value}" for key, value in present.items())
    request = Request(Headers.of({**present, ":path": f"/?{query}"}), metadata=dict(present))
    text = form.format(name, variable)

    def result(expression: str) -> Outcome:
        if check_condition(expression, phase_has_response=False):
            return REFUSED
        try:
            return compiled(expression).evaluate(request)
        except ConditionError as error:
            return error.reason

    # The second term needs the whole map, so nothing is left out.
    assert result(text) == result(f"({text}) && size({variable}) >= 0")


def test_several_values_are_joined_and_cookies_as_http_says() -> None:
    headers = Headers.of({"accept": ("a", "b"), "cookie": ("s=1", "t=2")})
    request = Request(headers)
    assert compiled('request.headers.accept == "a,b" && request.headers.cookie == "s=1; t=2"').evaluate(request)
    assert compiled('request.headers.exists(n, request.headers[n] == "s=1; t=2")').evaluate(request)


# Choice of engine, threads, memory

CHOOSE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[:len(BLOCK)] == BLOCK:
            raise ImportError(name)
BLOCK = {block!r}.split(".")
sys.meta_path.insert(0, Blocked())
from policy_engine.sdk import Headers, Request
from policy_engine.worker.conditions.condition import ENGINE, compile_condition
condition = compile_condition('request.method == "GET"', phase_has_response=False)
print(ENGINE.NAME, condition.evaluate(Request(Headers.of({{":method": "GET"}}))))
"""


@pytest.mark.parametrize(
    ("block", "name"),
    [("nothing", "cel-expr-python"), ("cel_expr_python", "cel-python"), ("google.protobuf", "cel-python")],
)
def test_the_engine_is_chosen_by_what_can_be_imported(block: str, name: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", CHOOSE.format(block=block)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [name, "True"]


def test_this_engine_is_the_fast_one() -> None:
    assert ENGINE.NAME == "cel-expr-python"


@both
def test_one_condition_serves_many_threads(engine: Engine) -> None:
    condition = compiled('request.path == "/0" && request.headers["x-n"] == metadata.n', engine)
    rounds = 3000 if engine is celcpp else 100
    wrong: list[object] = []

    def work(number: int) -> None:
        request = request_with({"n": str(number)}, path=f"/{number % 2}", x_n=str(number))
        try:
            wrong.extend(one for one in range(rounds) if condition.evaluate(request) != (number % 2 == 0))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


@pytest.mark.parametrize(
    "text",
    [
        'request.path.startsWith("/api") && request.method == "POST"',
        'request.headers.exists(n, n == "x-tenant") && metadata.user.age > 3',
        'request.headers["x-none"] == "a"',
    ],
)
def test_evaluation_does_not_leak(text: str) -> None:
    condition, request, response = compiled(text), sample_request(), Response(Headers.of({":status": "200"}))
    del request.metadata["raw"]

    def run(times: int) -> None:
        for _ in range(times):
            try:
                condition.evaluate(request, response)
            except ConditionError:
                continue

    run(2000)
    before = _resident_kib()
    run(70_000)
    assert _resident_kib() - before < 4096  # one leaked 64-byte value an evaluation would be more
