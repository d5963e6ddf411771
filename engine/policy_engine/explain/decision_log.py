"""The decision log of a worker process: a line for each request that is denied or fails, and for others when asked for.

What ends a request is told by the executor and the kernel, so that requests that pass cost nothing; those are recorded
only where `decisions: all` asks for them. The same facts go to Envoy as dynamic metadata, for its access log.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

from policy_engine.explain.masking import Masking, clean
from policy_engine.explain.record import Decision, ExchangeRecord, Verdict
from policy_engine.explain.recorder import Ended, Wanted
from policy_engine.kernel.denial_counts import tells_of_a_failure
from policy_engine.kernel.reply import DECISION_NAMESPACE
from policy_engine.sdk import Headers, ImmediateResponse, Request
from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.worker.chains.compiled import Step
from policy_engine.worker.chains.executor import failure_kind
from policy_engine.worker.chains.loop_watch import RUNNING
from policy_engine.worker.chains.tracing import trace_id
from policy_engine.worker.conditions.condition import Condition, ConditionError

_LONGEST = 200
_KEPT = 50


class DecisionLog:
    """Writes decisions to `logger`; see `worker.chains.compiled.Decisions` for what it is told.

    Lines of one kind (route, policy, reason) are bounded; the next one says how many there were.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lines = RepeatedLines(logger)
        self._masking = Masking()
        self.recent: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        """What the last lines say, for the admin page."""

    def answered(
        self, step: Step, answer: ImmediateResponse, request: Request, error: BaseException | None = None
    ) -> ImmediateResponse:
        """See `Decisions`."""
        decision = Decision.FAILED if error is not None else Decision.DENIED
        if error is None and answer.status < 400:
            decision = Decision.ANSWERED
        decided = _decided(step, decision, answer, error)
        if decision is not Decision.ANSWERED:
            self._told(decided, request, step)
        return _published(answer, decided)

    def failed_open(self, step: Step, error: BaseException, request: Request) -> None:
        """See `Decisions`."""
        self._told(_decided(step, Decision.FAILED_OPEN, None, error), request, step)

    def refused(self, answer: ImmediateResponse, route: str, headers: Headers) -> ImmediateResponse:
        """See `Decisions`."""
        decision = Decision.FAILED if tells_of_a_failure(answer.details) else Decision.DENIED
        decided = {"decision": decision.value, "status": answer.status, "reason": answer.details}
        self._told(decided, Request(headers, route=route), None)
        return _published(answer, decided)

    def passed(self, record: ExchangeRecord) -> None:
        """Write the line of a request that was recorded because it may pass; how many there are is for who samples."""
        if record.verdict not in (Verdict.PASSED, Verdict.ANSWERED):
            return
        request = dict(record.request.headers) if record.request is not None else {}
        facts = {
            "event": "decision",
            "request_id": record.request_id,
            "trace_id": record.trace_id,
            "route": record.route,
            "method": request.get(":method"),
            "path": request.get(":path", "").partition("?")[0],
            "client_address": record.client_address,
            "decision": record.verdict.value,
            "status": record.status,
            "reason": record.reason or None,
            "policy": record.policy or None,
            "policy_version": record.version or None,
            "hook": record.hook or None,
            "milliseconds": record.milliseconds,
            "policies": [
                {"policy": f"{one.policy} {one.version}".rstrip(), "hook": one.hook, "decision": one.decision.value}
                | ({} if one.milliseconds is None else {"milliseconds": one.milliseconds})
                for one in record.hooks
            ],
        }
        self._logger.info(*_in_words(facts), extra=_without_nothing(facts))

    def _told(self, decided: dict[str, Any], request: Request, step: Step | None) -> None:
        """Write the line of a decision, unless there were too many like it."""
        kind = (request.route, decided.get("policy"), decided["decision"], decided.get("reason"))
        if not self._lines.due(kind):
            return
        facts = {
            "event": "decision",
            "request_id": clean(request.id[:_LONGEST]),
            "trace_id": trace_id(request),
            "route": clean(request.route[:_LONGEST]),
            "method": clean(request.method[:_LONGEST]),
            "path": self._masking.text(request.path[:_LONGEST]),
            "client_address": request.client_address or None,
            "condition": None if step is None or step.condition is None else step.condition.text or None,
            **decided,
        }
        facts["reason"] = self._masking.text(facts["reason"]) if facts.get("reason") else None
        self.recent.append({"time": time.time(), **_without_nothing(facts)})
        self._lines.say(logging.INFO, kind, *_in_words(facts), extra=_without_nothing(facts))


def _decided(
    step: Step, decision: Decision, answer: ImmediateResponse | None, error: BaseException | None
) -> dict[str, Any]:
    """Return what is known of a decision without a look at the request; `milliseconds` are those of the hook."""
    decided: dict[str, Any] = {
        "decision": decision.value,
        "policy": step.policy,
        "policy_version": step.version,
        "hook": step.method,
        "milliseconds": round((perf_counter() - RUNNING.since) * 1000, 3),
    }
    if answer is not None:
        decided["status"] = answer.status
        decided["reason"] = answer.details
    if error is not None:
        decided["failure"] = failure_kind(error).value
    return decided


def _in_words(facts: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Return the message of a line and its values."""
    policy, reason = facts.get("policy"), facts.get("reason") or facts.get("failure")
    by = f" by {policy} {facts['policy_version'] or ''}".rstrip() if policy else " by the engine"
    return (
        "request %s%s%s%s",
        facts["decision"],
        "" if facts.get("status") is None else f" with {facts['status']}",
        "" if facts["decision"] == Verdict.PASSED else by,
        f": {reason}" if reason else "",
    )


def _without_nothing(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None and value != ""}


def _published(answer: ImmediateResponse, decided: dict[str, Any]) -> ImmediateResponse:
    """Return `answer` with the decision as dynamic metadata."""
    return replace(answer, dynamic_metadata={**answer.dynamic_metadata, DECISION_NAMESPACE: decided})


class PassedRequests:
    """Wants a share of all requests, for the lines of those that pass; `condition` None for any."""

    def __init__(self, log: DecisionLog, share: float, condition: Condition | None) -> None:
        self._share = share
        self._condition = condition
        self._late = condition is not None and condition.decided_late
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
