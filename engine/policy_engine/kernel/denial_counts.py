"""Counts the requests that the engine denied or failed, by route, policy and reason."""

from __future__ import annotations

import re
from collections import Counter

from policy_engine.sdk import ImmediateResponse
from policy_engine.worker.chains.compiled import Step

_OF_A_FAILURE = ("policy_failed:", "policy_engine:internal_error", "policy_engine:not_ready")
_REASON = re.compile(r"[A-Za-z0-9_:./-]{1,80}")
_MOST_REASONS = 20
_OTHER = "other"


def tells_of_a_failure(details: str) -> bool:
    """Return whether an answer with these details stands for a failure, of a policy or of the engine, not a denial."""
    return details.startswith(_OF_A_FAILURE)


class DenialCounts:
    """`counts` by route, policy, its version, reason and decision (`denied`, `failed`).

    A reason that is no plain word, and what is more than twenty reasons of one policy on one route, counts as `other`:
    authors write reasons, perhaps with a request's own words in them.
    """

    __slots__ = ("_reasons", "counts")

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, str, str, str]] = Counter()
        self._reasons: dict[tuple[str, str, str], set[str]] = {}

    def count(self, route: str, step: Step | None, response: ImmediateResponse) -> None:
        """Count `response` as a denial if it is one; `step` is what answered, None for the engine itself."""
        if response.status < 400:
            return
        policy, version = ("", "") if step is None else (step.policy, step.version)
        reason = self._reason((route, policy, version), response.details)
        self.counts[route, policy, version, reason, "failed" if tells_of_a_failure(response.details) else "denied"] += 1

    def _reason(self, of: tuple[str, str, str], reason: str) -> str:
        known = self._reasons.setdefault(of, set())
        if reason not in known:
            if (reason and not _REASON.fullmatch(reason)) or len(known) >= _MOST_REASONS:
                return _OTHER
            known.add(reason)
        return reason
