"""What one request of the demo came to, and whether that is what it should have come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demo.cases import Case
from integration.harness.client import Reply
from integration.harness.exchange import Received


@dataclass(frozen=True, slots=True)
class Outcome:
    """The response, what reached the upstream (None: nothing), the policies that ran, and what is wrong with it."""

    case: Case
    reply: Reply
    upstream: Received | None
    policies: Sequence[str]
    faults: Sequence[str]


def judge(case: Case, reply: Reply, upstream: Received | None, policies: Sequence[str]) -> Outcome:
    """Compare what came with what `case` expects."""
    faults = []
    if reply.status != case.status:
        faults.append(f"status {reply.status}, expected {case.status}")
    if case.upstream_sees is None and upstream is not None:
        faults.append("it reached the upstream")
    if case.upstream_sees is not None and upstream is None:
        faults.append("it did not reach the upstream")
    for name, value in (case.upstream_sees or {}).items():
        if upstream is not None and upstream.values(name) != [value]:
            faults.append(f"upstream got {name}: {upstream.values(name)}, expected {value!r}")
    for name, wanted in case.client_sees.items():
        if reply.header(name) != wanted:
            faults.append(f"client got {name}: {reply.header(name)!r}, expected {wanted!r}")
    return Outcome(case, reply, upstream, policies, faults)
