"""Which rule decides about a tool, once it is known which rules hold for a request; of names and patterns only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate


@dataclass(frozen=True, slots=True)
class Decision:
    """A rule that holds for this request: the tools that it is for (all without a pattern) and what it says of them."""

    name: str
    allows: bool
    tools: re.Pattern[str] | None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a tool, and why, for operators."""

    allows: bool
    reason: str


def names_pattern(globs: Sequence[str]) -> re.Pattern[str]:
    """Return one expression for names with `*`, `?` and `[…]`; it tells case apart."""
    return re.compile("|".join(map(translate, globs)))


def decide(rules: Sequence[Decision], tool: str, allows_by_default: bool) -> Verdict:
    """Return what the first rule for this tool says, the default where there is none."""
    for rule in rules:
        if rule.tools is None or rule.tools.match(tool):
            why = "mcp_authorize_rule_failed" if rule.failed else "mcp_authorize_denied"
            return Verdict(rule.allows, rule.name if rule.allows else f"{why}:{rule.name}")
    return Verdict(allows_by_default, "default" if allows_by_default else "mcp_authorize_no_rule")
