"""cel-spec's simple tests against the conditions of chains, through the door that chains use.

A condition is true or false, its names are those of a request, and `metadata` has whatever else. So the value that a
test expects is compared within the expression, and what a test binds to a name of its own becomes an entry of the
metadata. Where a test expects an error, both that and a refusal at load are right: either way nothing is decided.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from policy_engine.sdk import Headers, Request, Response
from policy_engine.worker.conditions.condition import Condition, ConditionError, ConditionRefused, compile_condition
from policy_engine.worker.conditions.source import VARIABLES, read_source
from tools.conformance.cel_literals import NoSuchValueError, equals, plain
from tools.conformance.downloads import GoModule, go_module
from tools.conformance.suite import Case
from tools.conformance.textproto import Message, first, read

_MODULE = GoModule("cel.dev/expr", "v0.26.0", "h1:oLXvOF0jiYA5A/tmzU91pLEWZkKynhLJlC9Gw7PrKvs=")
"""github.com/google/cel-spec, by the name that its go.mod has."""
VERSION = _MODULE.version
EXPECTED = "cel_spec.toml"

_REFUSALS: Mapping[str, str] = {
    "unknown function": "function",
    "cannot build messages": "message",
    "must be a text literal": "pattern",
    "not a valid RE2": "refused",
    "nested more than": "limit",
    "nested too deep": "limit",
    "characters; at most": "limit",
    "has() takes": "has",
    "is always there": "has",
    "unknown name": "name",
    "unexpected character": "syntax",
    "NUL or surrogate": "NUL",
}
"""The kinds of refusals at load, by what their messages say; others are `refused`."""

_ANOTHER = "another answer"
_NO_BOOL = "the condition must be true or false"
_LITERALS = frozenset(("true", "false", "null"))


class _OtherError(Exception):
    """A case that does not go as it should: `kind` as in Case, and why."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


def run() -> Iterator[Case]:
    """Fetch the tests and yield each: `FILE/SECTION/NAME`."""
    for path in sorted((go_module(_MODULE) / "tests" / "simple" / "testdata").glob("*.textproto")):
        yield from cases(read(path.read_text("utf-8")))


def cases(file: Message) -> Iterator[Case]:
    """Yield the cases of one file."""
    for section in file.get("section", []):
        for test in section.get("test", []):
            name = "/".join(_text(one, "name").replace("/", " ") for one in (file, section, test))
            try:
                _check(test)
            except _OtherError as other:
                yield Case(name, passed=False, kind=other.kind, detail=f"{_text(test, 'expr')!r}: {other}")
            except NoSuchValueError as error:
                yield Case(
                    name, passed=False, kind=str(error), detail=f"{_text(test, 'expr')!r}: no condition has that value"
                )
            else:
                yield Case(name, passed=True)


def _check(test: Message) -> None:
    """Raise _OtherError unless a test goes as it should, NoSuchValueError when it cannot be put as a condition."""
    metadata = {_text(one, "key"): _bound(one) for one in test.get("bindings", [])}
    expression = _as_entries(_text(test, "expr"), _text(test, "container"), metadata)
    try:
        _expect(test, expression, metadata)
    except _OtherError as other:
        if other.kind == "refused" and _is_true(test, "disable_check"):
            raise _OtherError("checked", str(other)) from None
        raise


def _expect(test: Message, expression: str, metadata: dict[str, Any]) -> None:
    if any(name in test for name in ("eval_error", "any_eval_errors")):
        _expect_failure(test, expression, metadata)
        return
    if any(name in test for name in ("unknown", "any_unknowns")):
        raise _OtherError("unknown", "a condition has no unknown values")
    expected = first(first(test, "typed_result", test), "result" if "typed_result" in test else "value")
    if _is_true(test, "check_only") or (expected is None and "typed_result" in test):
        _compile(f"[{expression}\n] != []")
        raise _OtherError("type", "the type that the checker finds does not show")
    condition = equals(f"{expression}\n" if "//" in expression else expression, expected or {"bool_value": ["true"]})
    if not _evaluate(condition, metadata):
        raise _OtherError(_ANOTHER, f"{condition!r} is false")


def _expect_failure(test: Message, expression: str, metadata: dict[str, Any]) -> None:
    try:
        try:
            answer = _evaluate(expression, metadata)
        except _OtherError as other:
            if _NO_BOOL not in str(other):
                raise
            answer = _evaluate(f"[{expression}] != []", metadata)
    except _OtherError as other:
        if other.kind in {"failed", "refused", "name"} or (other.kind == "function" and _is_about_a_function(test)):
            return
        raise
    raise _OtherError(_ANOTHER, f"{answer}, and not an error")


def _is_about_a_function(test: Message) -> bool:
    messages = [_text(one, "message") for error in test.get("eval_error", []) for one in error.get("errors", [])]
    return any("unbound function" in message or "undeclared" in message for message in messages)


def _compile(condition: str, *, direct: bool = True) -> Condition:
    try:
        return compile_condition(condition, phase_has_response=True, direct=direct)
    except ConditionRefused as refused:
        why = str(refused.problems[0].message)
        raise _OtherError(next((kind for part, kind in _REFUSALS.items() if part in why), "refused"), why) from None


def _evaluate(condition: str, metadata: dict[str, Any]) -> bool:
    """Return what the CEL engine answers, and the short cut for simple conditions too: else _OtherError is raised."""
    request = Request(Headers.of({":path": "/", ":method": "GET"}), metadata=metadata)
    response = Response(Headers.of({":status": "200"}))
    try:
        short, whole = (_compile(condition, direct=direct).evaluate(request, response) for direct in (True, False))
    except ConditionError as error:
        raise _OtherError("failed", error.reason) from None
    if short is not whole:
        raise _OtherError("short cut", f"{short}, and {whole} by the CEL engine")
    return whole


def _bound(binding: Message) -> Any:
    value = first(first(binding, "value"), "value")
    if value is None:
        raise NoSuchValueError("unknown")
    return plain(value)


def _as_entries(expression: str, container: str, metadata: Mapping[str, Any]) -> str:
    """Return the expression with `metadata["x"]` for each name x that a test binds; dotted names are one.

    Raises NoSuchValueError where a name means something else by its place: within a container or a macro.
    """
    names = sorted(
        (name for name in metadata if name not in VARIABLES and name not in _LITERALS), key=len, reverse=True
    )
    if not names:
        return expression
    if container and any(name.startswith(f"{container}.") for name in names):
        raise NoSuchValueError("container")
    if any(re.search(rf"\(\s*{re.escape(name.partition('.')[0])}\s*,", expression) for name in names):
        raise NoSuchValueError("shadowing")
    wanted = re.compile(rf"(?<![\w.\"'])\.?(?:{'|'.join(map(re.escape, names))})(?!\w)")
    texts = [token for token in read_source(expression).tokens if token.kind == "string"]

    def entry(found: re.Match[str]) -> str:
        if any(text.offset <= found.start() < text.offset + len(text.text) for text in texts):
            return found[0]
        return f'metadata["{found[0].lstrip(".")}"]'

    return wanted.sub(entry, expression)


def _is_true(test: Message, name: str) -> bool:
    return bool(first(test, name) == "true")


def _text(message: Message, name: str) -> str:
    return str(first(message, name, b"").decode())
