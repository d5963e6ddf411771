"""What Envoy takes a plain scalar of its YAML for: `n` is false and `1e3` a number to it, also where it wants text.

A separate module because the generator quotes by this rule and the lint looks for what breaks it.
"""

from __future__ import annotations

import re
from typing import Final

# yaml-cpp, convert<bool>: YAML 1.1's words in lower case, upper case, or with a capital.
_WORDS: Final = frozenset({"y", "yes", "true", "on", "n", "no", "false", "off", "~", "null", ""})
# What strtod and strtoll of libc++ take, and a little more: quoting too much does no harm.
_NUMBER: Final = re.compile(
    r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.[\d_]+)(e[-+]?\d+)?|[-+]?0[xob][\da-f_.]+(p[-+]?\d+)?|[-+]?\.?(inf|infinity|nan)(\(.*\))?",
    re.IGNORECASE | re.ASCII,
)


def is_plain_text(scalar: str) -> bool:
    """Return whether Envoy reads `scalar`, written without quotes, as text."""
    return scalar.lower() not in _WORDS and _NUMBER.fullmatch(scalar) is None
