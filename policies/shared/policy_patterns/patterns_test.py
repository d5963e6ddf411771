"""RE2 patterns of parameters."""

from __future__ import annotations

import pytest

from policy_engine.sdk import ParameterError
from policy_patterns import compile_pattern, searchable


@pytest.mark.parametrize("text", ["(", r"(a)\1", "(?=a)", "a" * 9000])
def test_what_re2_cannot_run_is_a_parameter_error(text: str) -> None:
    with pytest.raises(ParameterError) as caught:
        compile_pattern(text, "/here")
    assert caught.value.path == "/here"


def test_case_and_surrogates() -> None:
    assert compile_pattern("ä+", "", ignore_case=True).search("xÄä").span() == (1, 3)
    assert compile_pattern("ä+", "").search("xÄ") is None
    assert searchable("a\ud800b€") == "a\ufffdb€"
