"""Denials are counted by who gave them and why; reasons stay few, whatever authors put into them."""

from __future__ import annotations

import pytest

from policy_engine.kernel.denial_counts import DenialCounts
from policy_engine.sdk import ImmediateResponse


def counted(*responses: ImmediateResponse) -> dict[tuple[str, str], int]:
    counts = DenialCounts()
    for one in responses:
        counts.count("route", None, one)
    return {(reason, decision): count for (_, _, _, reason, decision), count in counts.counts.items()}


@pytest.mark.parametrize(
    ("status", "details", "expected"),
    [
        (403, "acl:denied", {("acl:denied", "denied"): 1}),
        (500, "policy_failed:acl_v1.0.0", {("policy_failed:acl_v1.0.0", "failed"): 1}),
        (503, "policy_engine:not_ready", {("policy_engine:not_ready", "failed"): 1}),
        (413, "policy_engine:body_too_large", {("policy_engine:body_too_large", "denied"): 1}),
        (429, "", {("", "denied"): 1}),
        (403, "no access for mary@example.com", {("other", "denied"): 1}),
        (403, "a" * 81, {("other", "denied"): 1}),
        (403, 'quote"\n', {("other", "denied"): 1}),
        (302, "login", {}),
        (200, "cached", {}),
    ],
)
def test_what_is_a_denial_and_how_it_is_called(status: int, details: str, expected: dict[tuple[str, str], int]) -> None:
    assert counted(ImmediateResponse(status, details=details)) == expected


@pytest.mark.parametrize("many", [25, 400])
def test_reasons_are_bounded(many: int) -> None:
    found = counted(*(ImmediateResponse(403, details=f"reason-{number}") for number in range(many)))
    assert len(found) == 21
    assert found["other", "denied"] == many - 20
