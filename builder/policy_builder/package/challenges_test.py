"""`WWW-Authenticate` as RFC 9110 writes it, and what is not of its grammar."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_builder.package.challenges import LONGEST, Challenge, read_challenges

BEARER = Challenge("bearer", {"realm": "https://x.test/t?a=b,c", "scope": "repository:a:pull,push"})
BEARER_TEXT = 'Bearer realm="https://x.test/t?a=b,c",scope="repository:a:pull,push"'


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([BEARER_TEXT], [BEARER]),
        ([f'Basic realm="r", {BEARER_TEXT}'], [Challenge("basic", {"realm": "r"}), BEARER]),
        ([f'{BEARER_TEXT}, Basic realm="r"'], [BEARER, Challenge("basic", {"realm": "r"})]),
        (['Basic realm="r"', BEARER_TEXT], [Challenge("basic", {"realm": "r"}), BEARER]),
        # RFC 9110 11.6.1: the example, with a comma that begins the next challenge
        (
            ['Basic realm="simple", Newauth realm="apps", type=1, title="Login to \\"apps\\""'],
            [
                Challenge("basic", {"realm": "simple"}),
                Challenge("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
            ],
        ),
        ([f'Basic realm="say Bearer realm=\\"x\\", now", {BEARER_TEXT}'][:1], None),
        (["Negotiate, NTLM"], [Challenge("negotiate"), Challenge("ntlm")]),
        (
            ["Negotiate abc/+~._-==, Basic realm=r"],
            [Challenge("negotiate"), Challenge("basic", {"realm": "r"})],
        ),
        (
            ['NEGOTIATE YWJj, bEARER Realm = "x" ,\tscope=y'],
            [Challenge("negotiate"), Challenge("bearer", {"realm": "x", "scope": "y"})],
        ),
        ([' , ,Basic realm="r",, charset="UTF-8" ,'], [Challenge("basic", {"realm": "r", "charset": "UTF-8"})]),
        (['Bearer realm="first", realm="second"'], [Challenge("bearer", {"realm": "first"})]),
        (["Bearer"], [Challenge("bearer")]),
        (["", "   ", ","], []),
        (['realm="nobody"'], []),
        (['Bearer realm="open'], [Challenge("bearer")]),
        (["\x00\x01", "Basic realm=r"], [Challenge("basic", {"realm": "r"})]),
        ([f'Basic realm="{"x" * LONGEST}", {BEARER_TEXT}'], [Challenge("basic")]),
    ],
)
def test_challenges(lines: list[str], expected: list[Challenge] | None) -> None:
    if expected is None:
        expected = [Challenge("basic", {"realm": 'say Bearer realm="x", now'}), BEARER]
    assert list(read_challenges(lines)) == expected


@given(st.lists(st.text(alphabet='abB=", \\\t\x00é/', max_size=60), max_size=3))
def test_any_text_gives_challenges(lines: list[str]) -> None:
    for challenge in read_challenges(lines):
        assert challenge.scheme == challenge.scheme.lower() != ""


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Basic", "Bearer", "Digest", "X-y"]),
            st.dictionaries(
                st.sampled_from(["realm", "scope", "service", "error"]),
                st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
                min_size=1,
            ),
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_what_is_written_is_read(challenges: list[tuple[str, dict[str, str]]], apart: bool) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    texts = [
        f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in parameters.items())
        for scheme, parameters in challenges
    ]
    found = read_challenges(texts if apart else [", ".join(texts)])
    assert [(one.scheme, one.parameters) for one in found] == [
        (scheme.lower(), parameters) for scheme, parameters in challenges
    ]
