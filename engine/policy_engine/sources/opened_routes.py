"""What of a configuration may let requests in that nobody decided about: hints, as warnings.

A separate module because it judges what an operator wrote, not whether it can run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from policy_engine.documents.diagnostics import Diagnostic, Rule, Severity
from policy_engine.documents.yaml_document import Document
from policy_engine.sdk.json_pointer import Path
from policy_engine.worker.chains.spec import WHOLE, Mode, PolicySpec, Share
from policy_engine.worker.conditions.failing import unguarded

Authenticates = Callable[[PolicySpec], bool]

_NAMED = 3


def failing_conditions(document: Document, path: Path, policy: object, condition: str) -> Iterator[Diagnostic]:
    """Yield a warning for each look-up by which a request makes the condition of the entry at `path` fail.

    For a `policy` that decides who gets in and fails open: with the condition it is skipped.
    """
    for one in unguarded(condition):
        yield document.diagnostic(
            (*path, "condition"),
            f"{policy} decides who gets in, and is skipped when the condition fails (failure_mode: open): a request"
            f" without this entry makes {one.lookup} fail; write `{one.guard} && …` before it, or failure_mode: closed",
            severity=Severity.WARNING,
            rule=Rule.OPEN_CONDITION,
        )


def why_open(policies: Sequence[PolicySpec], authenticates: Authenticates) -> str:
    """Return why a request can pass a chain without a policy that decides who gets in; empty when none can.

    Also empty for a chain that has no such policy: it is open because somebody wanted it so.
    """
    reasons = []
    for same, entries in groupby(policies, key=_together):
        members = [one for one in entries if authenticates(one)]
        if not members:
            continue
        reason = _why_not_always(members)
        if not reason:
            return ""
        named = same[1] if isinstance(same[1], str) else "the group any_of"
        reasons.append(f"{named} {reason}")
    more = f", and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
    return f"{', '.join(reasons[:_NAMED])}{more}" if reasons else ""


def _together(policy: PolicySpec) -> tuple[str, object, object]:
    """Return the same for entries of which it takes all to know: alternatives, and versions that share the requests."""
    if policy.any_of is not None:
        return "group", policy.any_of.number, ""
    if policy.share is not None:
        return "versions", policy.name, policy.share.by
    return "entry", policy.name, id(policy)


def _why_not_always(members: Sequence[PolicySpec]) -> str:
    first = members[0]
    condition, share = first.condition, first.share
    if first.any_of is not None:
        condition, share = first.any_of.condition, first.any_of.share
        covered = _covered([share])
    else:
        covered = _covered([one.share for one in members])
    if not any(one.enabled for one in members):
        return "is disabled"
    if first.mode is Mode.SHADOW:
        return "is in shadow"
    if covered < WHOLE:
        return "runs for a share of the requests"
    return "runs under a condition" if condition is not None else ""


def _covered(shares: Iterable[Share | None]) -> int:
    """Return for how much of all requests at least one of the shares holds."""
    covered = at = 0
    for low, high in sorted((0, WHOLE) if one is None else (one.low, one.high) for one in shares):
        covered += max(0, high - max(low, at))
        at = max(at, high)
    return covered
