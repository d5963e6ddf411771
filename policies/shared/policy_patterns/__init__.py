"""Regular expressions of policy parameters, run by RE2 (linear time on whatever a client sends), and text for them.

A plain library, apart from `policy_body` because it needs `google-re2` and only some policies do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import re2

from policy_engine.sdk import ParameterError
from policy_patterns.plain_text import Folded, has_unshown, normal_form, searchable

__all__ = ["Folded", "any_of", "compile_pattern", "has_unshown", "normal_form", "searchable"]

_MAX_LENGTH = 8192


def any_of(texts: Sequence[str], *, ignore_case: bool = False) -> Any:
    """Return one expression that matches where any of these does, to ask once; None when they do not fit into one."""
    joined = "|".join(f"(?:{text})" for text in texts)
    try:
        return compile_pattern(joined, "", ignore_case=ignore_case)
    except ParameterError:
        return None


def compile_pattern(text: str, where: str, *, ignore_case: bool = False) -> Any:
    """Return `text` compiled by RE2 (https://github.com/google/re2/wiki/Syntax); raises ParameterError at `where`."""
    if len(text) > _MAX_LENGTH:
        raise ParameterError(f"a pattern has at most {_MAX_LENGTH} characters", where)
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = not ignore_case
    try:
        return re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        said = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ParameterError(f"not a regular expression that RE2 can run: {said}", where) from None
