"""The decision log of a worker process: a line for each request that is denied or fails, and for others when asked for.

What ends a request is told by the executor and the kernel, so that requests that pass cost nothing; those are recorded
only where `decisions: all` asks for them. The same facts go to Envoy as dynamic metadata, for its access log.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

from policy_engine.explain.masking import Masking, clean
from policy_engine.explain.record import Decision, ExchangeRecord, Verdict
from policy_engine.explain.recorder import Ended, Wanted
from policy_engine.kernel.reply import DECISION_NAMESPACE
from policy_engine.sdk import Headers, ImmediateResponse, Request
from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.worker.chains.compiled import Condition, Step
from policy_engine.worker.chains.executor import failure_kind
from policy_engine.worker.chains.loop_watch import RUNNING
from policy_engine.worker.chains.tracing import trace_id
from policy_engine.worker.conditions.condition import ConditionError

_LONGEST = 200
_OF_A_FAILURE = ("policy_failed:", "policy_engine:internal_error", "policy_engine:not_ready")


class DecisionLog:
    """Writes decisions to `logger`; see `worker.chains.compiled.Decisions` for what it is told.

    Lines of one kind (route, policy, reason) are bounded; the next one says how many there were.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._lines = RepeatedLines(logger)
        self._masking = Masking()

    def answered(
        self, step: Step, answer: ImmediateResponse, request: Request, error: BaseException | None = None
    ) -> ImmediateResponse:
        """See `Decisions`."""
        decision = Decision.FAILED if error is not None else Decision.DENIED
        if error is None and answer.status < 400:
            decision = Decision.ANSWERED
        facts = self._of_step(step, decision, request, answer)
        if error is not None:
            facts["failure"] = failure_kind(error).value
        if decision is not Decision.ANSWERED:
            self._write(facts)
        return _published(answer, facts)

    def failed_open(self, step: Step, error: BaseException, request: Request) -> None:
        """See `Decisions`."""
        facts = self._of_step(step, Decision.FAILED_OPEN, request, None)
        self._write(facts | {"failure": failure_kind(error).value})

    def refused(self, answer: ImmediateResponse, route: str, headers: Headers) -> ImmediateResponse:
        """See `Decisions`."""
        failed = answer.details.startswith(_OF_A_FAILURE)
        request = Request(headers, route=route)
        facts = self._of_request(request) | {
            "decision": (Decision.FAILED if failed else Decision.DENIED).value,
            "status": answer.status,
            "reason": answer.details,
        }
        self._write(facts)
        return _published(answer, facts)

    def passed(self, record: ExchangeRecord) -> None:
        """Write the line of a request that was recorded because it may pass."""
        if record.verdict not in (Verdict.PASSED, Verdict.ANSWERED):
            return
        request = dict(record.request.headers) if record.request is not None else {}
        facts: dict[str, Any] = {
            "event": "decision",
            "decision": record.verdict.value,
            "status": record.status,
            "reason": record.reason or None,
            "request_id": record.request_id,
            "trace_id": record.trace_id,
            "route": record.route,
            "method": request.get(":method"),
            "path": request.get(":path", "").partition("?")[0],
            "policy": record.policy or None,
            "policy_version": record.version or None,
            "milliseconds": record.milliseconds,
            "policies": [
                {"policy": f"{one.policy} {one.version}", "hook": one.hook, "decision": one.decision.value}
                | ({} if one.milliseconds is None else {"milliseconds": one.milliseconds})
                for one in record.hooks
            ],
        }
        self._write(facts)

    def _of_request(self, request: Request) -> dict[str, Any]:
        return {
            "event": "decision",
            "request_id": clean(request.id[:_LONGEST]),
            "trace_id": trace_id(request),
            "route": clean(request.route[:_LONGEST]),
            "method": clean(request.method[:_LONGEST]),
            "path": self._masking.text(request.path[:_LONGEST]),
        }

    def _of_step(
        self, step: Step, decision: Decision, request: Request, answer: ImmediateResponse | None
    ) -> dict[str, Any]:
        facts = self._of_request(request)
        return facts | {
            "decision": decision.value,
            "policy": step.policy,
            "policy_version": step.version,
            "hook": step.method,
            "condition": None if step.condition is None else step.condition.text,
            "status": None if answer is None else answer.status,
            "reason": None if answer is None else self._masking.text(answer.details),
            "client_address": request.client_address,
            "milliseconds": round((perf_counter() - RUNNING.since) * 1000, 3),
        }

    def _write(self, facts: dict[str, Any]) -> None:
        policy, reason = facts.get("policy"), facts.get("reason") or facts.get("failure")
        kind = (facts["route"], policy, facts["decision"], reason)
        if not self._lines.due(kind):
            return
        who = f"{policy} {facts['policy_version']}" if policy else "the engine"
        self._lines.say(
            logging.INFO,
            kind,
            "request %s%s by %s%s",
            facts["decision"],
            "" if facts.get("status") is None else f" with {facts['status']}",
            who,
            f": {reason}" if reason else "",
            extra={name: value for name, value in facts.items() if value is not None},
        )


class PassedRequests:
    """Wants a share of all requests, for the lines of those that pass; `condition` None for any."""

    def __init__(self, log: DecisionLog, share: float, condition: Condition | None, *, late: bool) -> None:
        self._share = share
        self._condition = condition
        self._late = late
        self._log = log
        self._wanted = Wanted(self._ended, publish=True)

    @property
    def watching(self) -> bool:
        """Always: it is there only when it is wanted."""
        return self._share > 0

    def wants(self, request: Request) -> Wanted | None:
        """See `Watcher`."""
        if self._share < 1 and random.random() >= self._share:  # noqa: S311 - a sample, not a secret
            return None
        return self._wanted if self._late or self._holds(Ended(_NO_RECORD, request, None)) else None

    def dropped(self) -> None:
        """See `Watcher`."""

    def _ended(self, ended: Ended) -> None:
        if not self._late or self._holds(ended):
            self._log.passed(ended.record)

    def _holds(self, ended: Ended) -> bool:
        try:
            return self._condition is None or self._condition.evaluate(ended.request, ended.response)
        except ConditionError:
            return False


_NO_RECORD = ExchangeRecord("", "")

_SHOWN_TO_ENVOY = ("decision", "policy", "policy_version", "hook", "reason", "status", "failure", "milliseconds")


def _published(answer: ImmediateResponse, facts: Mapping[str, Any]) -> ImmediateResponse:
    """Return `answer` with the facts as dynamic metadata."""
    shown = {name: facts[name] for name in _SHOWN_TO_ENVOY if facts.get(name) is not None}
    return replace(answer, dynamic_metadata={**answer.dynamic_metadata, DECISION_NAMESPACE: shown})
