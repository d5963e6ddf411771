"""What `/readyz` says: whether requests are welcome, and what does not answer although they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policy_engine.sdk.dependencies import DependencyState
from policy_engine.worker.policies.integrity import Verification


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `decides` says whether the engine is ready only when it is `ok`."""

    name: str
    ok: bool
    text: str
    decides: bool = True


def dependency_check(state: DependencyState) -> Check:
    """Return how a server does that policies ask.

    It never decides: the engines behind a load balancer share such a server, so that all of them would be taken out for
    what concerns the routes of some. What those answer is the choice of their chains (`failure_mode`).
    """
    name = f"{state.kind} {state.name}"
    if state.up is None:
        return Check(name, True, "not asked yet", decides=False)
    if state.up:
        return Check(name, True, "answers", decides=False)
    errors = f"{state.errors} error" + ("s" if state.errors != 1 else "")
    text = f"has not answered for {state.failing_seconds:.0f} s ({errors}, last: {state.reason})"
    return Check(name, False, text, decides=False)


def verification_check(verification: Verification) -> Check:
    """Return whether the code that runs is what was reviewed. It does not decide: who wants that says `strict`."""
    changed = [part.title for part in verification.parts if part.problems]
    text = f"runs what was not reviewed: {', '.join(changed)}" if changed else verification.state
    return Check("code", not changed, text, decides=False)


def short_text(reason: str, checks: Sequence[Check]) -> str:
    """Return `reason`, and a line for each thing that does not answer and does not decide."""
    degraded = [f"degraded: {one.name} {one.text}\n" for one in checks if not one.ok and not one.decides]
    return f"{reason}\n" + "".join(degraded)


def verbose_text(ready: bool, reason: str, checks: Sequence[Check]) -> str:
    """Return a line for each check, as Kubernetes' own components write them, and `reason` at the end."""
    lines = [f"[{'+' if one.ok else '-'}]{one.name}: {one.text}\n" for one in checks]
    return "".join(lines) + f"readyz check {'passed' if ready else 'failed'}: {reason}\n"
