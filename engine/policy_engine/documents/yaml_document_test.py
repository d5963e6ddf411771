"""The YAML reader: what it makes of good files, where it finds things, and what hostile files cannot do."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.documents.yaml_document import MAX_BYTES, MAX_DEPTH, Document, read_document


def read(text: str | bytes) -> tuple[Document | None, list[str]]:
    document, diagnostics = read_document("f.yaml", text.encode() if isinstance(text, str) else text)
    return document, [str(one) for one in diagnostics]


def value(text: str) -> Any:
    document, errors = read(text)
    assert errors == []
    assert document is not None
    return document.value


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=10), inner, max_size=4)
    ),
    max_leaves=25,
)


@given(JSON)
def test_reads_what_a_yaml_library_wrote(data: Any) -> None:
    # Quoted, because PyYAML writes plain scalars by YAML 1.1's rules, which is what this reader departs from.
    text = yaml.safe_dump(data, default_style='"', allow_unicode=True, sort_keys=False)
    text = text.replace("!!int ", "!!str ").replace("!!float ", "!!str ").replace("!!bool ", "!!str ")
    document, errors = read(text.replace("!!null ", "!!str "))
    assert errors == []
    assert document is not None
    assert _as_text(document.value) == _as_text(data)


def _as_text(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _as_text(item) for name, item in data.items()}
    if isinstance(data, list):
        return [_as_text(item) for item in data]
    return data if isinstance(data, str) else yaml.safe_dump(data, default_style='"').split(" ")[-1].strip().strip('"')


@given(JSON)
def test_reads_json(data: Any) -> None:
    text = json.dumps(data)
    if "\\ud" in text:
        return  # JSON's escaped surrogate pairs are the one thing that YAML's escapes do not have
    document, errors = read(text)
    assert errors == []
    assert document is not None
    assert document.value == json.loads(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_have_a_finding(content: bytes) -> None:
    document, errors = read(content)
    assert document is not None or errors


@settings(max_examples=300)
@given(st.text(alphabet="ab:-?[]{}&*!|>'\"%#@,. \n\t1~<\\", max_size=60))
def test_any_text_of_indicators_ends_and_is_plain_data(text: str) -> None:
    document, errors = read(text)
    if document is None:
        assert errors
    else:
        json.dumps(document.value, allow_nan=False)


@given(JSON.filter(lambda data: isinstance(data, dict | list)))
def test_every_value_is_found_where_it_stands(data: Any) -> None:
    text = json.dumps(data, indent=1, ensure_ascii=False).replace("\x7f", "").replace("\ufeff", "")
    document, errors = read(text)
    if errors or document is None:
        return
    lines = text.replace("\r\n", "\n").split("\n")
    for path, leaf in _leaves(document.value, ()):
        position = document.locate(path)
        assert position is not None
        if isinstance(leaf, int | float) and not isinstance(leaf, bool) and text.isascii():
            assert lines[position.line - 1][position.column - 1 :].startswith(json.dumps(leaf)[0])


def _leaves(data: Any, path: tuple[Any, ...]) -> Any:
    if isinstance(data, dict):
        for name, item in data.items():
            yield from _leaves(item, (*path, name))
    elif isinstance(data, list):
        for index, item in enumerate(data):
            yield from _leaves(item, (*path, index))
    else:
        yield path, data


def test_positions_of_keys_values_and_what_is_missing() -> None:
    document, _ = read("a:\n  - b: 1\n    cc:   two\n")
    assert document is not None
    where = {
        (("a",), True): (1, 1),
        (("a", 0, "cc"), False): (3, 11),
        (("a", 0, "cc"), True): (3, 5),
        (("a", 0, "nothing"), False): (2, 5),
        (("a", 7), False): (2, 3),
        ((), False): (1, 1),
    }
    for (path, key), (line, column) in where.items():
        position = document.locate(path, key=key)
        assert position is not None
        assert (position.line, position.column) == (line, column), (path, key)


def test_yaml_1_2_not_1_1() -> None:
    assert value("[on, off, yes, no, y, 1:30, 1_000, 2020-01-01, 0x1F, 0o17, 1e3, .5, true, null, ~, '']") == [
        "on", "off", "yes", "no", "y", "1:30", "1_000", "2020-01-01", 31, 15, 1000.0, 0.5, True, None, None, "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: 2\na: 3", "f.yaml:3:1: /a: the key 'a' is here for the second time; the first is in line 1"),
        ("a: {b: 1, b: 2}", "f.yaml:1:11: /a/b: the key 'b' is here for the second time"),
        ("port: 0123", "f.yaml:1:7: /port: a number with a leading zero"),
        ("a: .inf", "infinity and not-a-number"),
        ("a: 1e999", "the number is too large"),
        ("a: 9223372036854775808", "does not fit 64 bits"),
        ("1: a", "a key must be text; quote it"),
        ("true: a", "a key must be text; quote it"),
        ("? [a]\n: b", "a key must be text, not a list"),
        ("a: !!python/object/apply:os.system [x]", "tags are not supported"),
        ("a: !!binary aGk=", "tags are not supported"),
        ("<<: {a: 1}", "merge keys (<<) are not supported"),
        ("a: [", "f.yaml:2:1: not valid YAML"),
        ("a: b: c", "f.yaml:1:5: not valid YAML: mapping values are not allowed"),
        ("--- a\n--- b", "more than one document"),
        ("a: &x [*x]", "f.yaml:1:8: the alias *x stands before or inside its anchor"),
        ("a: *x", "the alias *x stands before"),
        ("a: {b: ${env:X}}", "a value with ${…} inside [] or {} has to be quoted"),
        ("a: \0", "not valid YAML: control characters"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    _, errors = read(text)
    assert any(reason in error for error in errors), errors


def test_not_utf8_is_found_where_it_is() -> None:
    assert read(b"a: 1\nb: \xff")[1] == ["f.yaml:2:4: the file is not UTF-8 text"]


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert value("\ufeffa: 1") == {"a": 1}


def test_errors_do_not_hide_later_ones() -> None:
    assert len(read("a: 1\na: 2\nb: .nan\n3: x\nc: !!set {}\n")[1]) == 4


def test_the_first_of_two_equal_keys_stays() -> None:
    document, _ = read("a: {x: 1}\na: {x: 2}")
    assert document is not None
    assert document.value == {"a": {"x": 1}}
    assert document.locate(("a", "x")) == document.locate(("a", "x"))


def test_aliases_are_values() -> None:
    assert value("a: &x {k: [1]}\nb: *x\nc: &s text\nd: *s") == {
        "a": {"k": [1]},
        "b": {"k": [1]},
        "c": "text",
        "d": "text",
    }


def test_a_billion_laughs_are_counted_not_laughed() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    document, errors = read(bomb)
    assert document is None
    assert "more than 1000000 values" in errors[-1]


def test_aliases_cannot_nest_deeper_than_the_limit() -> None:
    tower = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200))
    document, errors = read(tower)
    assert document is None
    assert f"aliases nest more than {MAX_DEPTH} levels" in errors[-1]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_stops_before_it_hurts(opening: str) -> None:
    document, errors = read(opening * 100_000)
    assert document is None
    assert f"more than {MAX_DEPTH} levels" in errors[-1]


def test_a_file_that_is_too_large_is_not_parsed() -> None:
    assert "larger than 16 MiB" in read(b"#" * (MAX_BYTES + 1))[1][0]


def test_an_offending_value_under_a_secret_name_is_not_shown() -> None:
    _, errors = read("password: 0123456\npin: 0123")
    assert "0123456" not in errors[0]
    assert "0123" in errors[1]
