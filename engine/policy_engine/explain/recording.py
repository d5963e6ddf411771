"""One exchange while it is recorded: what its messages and its policies' hooks tell becomes an `ExchangeRecord`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from google.protobuf.json_format import MessageToDict

from policy_engine.documents.error_text import error_text, said
from policy_engine.explain.differences import changes_of, metadata_changes
from policy_engine.explain.masking import Masking, clean
from policy_engine.explain.record import (
    ConditionPart,
    ConditionRecord,
    Decision,
    ExchangeRecord,
    HookRecord,
    Verdict,
)
from policy_engine.explain.traffic import Traffic
from policy_engine.kernel.denial_counts import tells_of_a_failure
from policy_engine.kernel.reply import DECISION_NAMESPACE
from policy_engine.kernel.route_key import ATTRIBUTES
from policy_engine.sdk import ImmediateResponse, Request, Response
from policy_engine.worker.chains.compiled import Condition, Narrowed, Step
from policy_engine.worker.chains.executor import failure_kind
from policy_engine.worker.chains.statistics import FailureKind
from policy_engine.worker.chains.tracing import trace_id
from policy_engine.worker.conditions.parts import part_values

MOST_HOOKS = 200
"""Hook calls in one record: a streamed body has one for each policy and chunk."""

_ENDED_BY_POLICY = (Decision.ANSWERED, Decision.DENIED, Decision.FAILED)


@dataclass(slots=True)
class _Note:
    """A hook that was called, until its result is there. `metadata` is that of the request before the call.

    `way` is whether it is one of several ways in.
    """

    record: HookRecord
    arguments: tuple[Any, ...]
    began: float
    metadata: Mapping[str, Any]
    way: bool


@dataclass(slots=True)
class _Entry:
    """What is known of one entry of the chain beyond its hooks."""

    condition: ConditionRecord | None = None
    open: list[_Note] = field(default_factory=list)


class Recording:
    """Gathers one record; see `hooks.Notes` for what it is told of policies. Finished by `finish`, once."""

    def __init__(self, request: Request, masking: Masking, chain: str, *, body_limit: int) -> None:
        self.request = request
        """The request as it came; its metadata is that which policies share."""
        self._masking = masking
        self._began = perf_counter()
        self._entries: dict[int, _Entry] = {}
        self._left_out = 0
        now = time.time()
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        self.record = ExchangeRecord(
            time=f"{moment}.{int(now % 1 * 1000):03d}Z",
            route=clean(request.route),
            request_id=clean(request.id[:200]),
            trace_id=trace_id(request),
            client_address=request.client_address,
            chain=chain,
        )
        self._traffic = Traffic(masking, body_limit)

    # --- messages

    def came(self, message: Any) -> None:
        """Envoy sent this `ProcessingRequest`."""
        self._traffic.came(message)
        if message.WhichOneof("request") == "request_headers":
            sent = MessageToDict(message.attributes[ATTRIBUTES]) if ATTRIBUTES in message.attributes else {}
            self.record.attributes = self._masking.value("", sent)
            self.record.envoy_metadata = {
                namespace: self._masking.value("", MessageToDict(values))
                for namespace, values in message.metadata_context.filter_metadata.items()
            }

    def went(self, replies: bytes | tuple[bytes, ...] | None) -> None:
        """The engine replies with these messages."""
        for one in (replies,) if isinstance(replies, bytes) else replies or ():
            reply = ext_proc.ProcessingResponse.FromString(one)
            if reply.HasField("mode_override"):
                self.record.modes = modes_in_words(reply.mode_override)
            for namespace, values in MessageToDict(reply.dynamic_metadata).items():
                shown = {key: self._masking.value(key, value) for key, value in values.items()}
                self.record.metadata.setdefault(namespace, {}).update(shown)
            self._traffic.went(reply)

    def times(self) -> bytes:
        """Return dynamic metadata with the milliseconds of each policy so far, as bytes to put behind a reply."""
        spent: dict[str, float] = {}
        for hook in self.record.hooks:
            if hook.milliseconds is not None:
                label = f"{hook.policy} {hook.version}".rstrip()
                spent[label] = round(spent.get(label, 0.0) + hook.milliseconds, 3)
        reply = ext_proc.ProcessingResponse()
        reply.dynamic_metadata.get_or_create_struct(DECISION_NAMESPACE).update({"policies": spent})
        return bytes(reply.SerializeToString())

    def broke(self, reason: str) -> None:
        """The stream ends with an error."""
        self.record.verdict = Verdict.FAILED
        self.record.reason = reason

    # --- hooks

    def made(self, request: Request) -> None:
        """See `Notes`."""
        self.request.metadata = request.metadata

    def condition(self, step: Step, condition: Condition, request: Request, response: Response | None) -> bool:
        """See `Notes`."""
        known = ConditionRecord(condition.text)
        if condition.text:
            self._entry(step).condition = known
        for part in part_values(condition.text, request, response):
            known.parts.append(
                ConditionPart(part.text, part.depth, self._shown(part.value, part.variables), part.error)
            )
        try:
            known.result = condition.evaluate(request, response)
        except Exception as error:
            known.error = clean(str(error).partition("; condition:")[0])
            raise
        if not known.result:
            record = self._hook(step)
            record.decision, record.condition = Decision.SKIPPED, known
            if isinstance(condition, Narrowed) and (why := condition.why_not(request, response)):
                record.reason, record.condition = why, None
        return known.result

    def begins(self, step: Step, arguments: tuple[Any, ...]) -> _Note:
        """See `Notes`."""
        entry = self._entry(step)
        note = _Note(self._hook(step), arguments, perf_counter(), dict(arguments[0].metadata), step.way is not None)
        note.record.condition, entry.condition = entry.condition, None
        entry.open.append(note)
        return note

    def returned(self, note: _Note, action: Any) -> None:
        """See `Notes`."""
        record = self._closed(note)
        record.decision = Decision.PASSED
        request = note.arguments[0]
        try:
            record.changes = [
                *changes_of(action, note.arguments, self._masking),
                *metadata_changes(note.metadata, request.metadata, self._masking),
            ]
        except Exception:  # no action at all: the executor will say so
            return
        if isinstance(action, ImmediateResponse):
            record.decision = Decision.DENIED if action.status >= 400 else Decision.ANSWERED
            if note.way:
                record.decision = Decision.REFUSED
            record.status, record.reason = action.status, self._masking.text(action.details)
        elif record.changes:
            record.decision = Decision.CHANGED

    def failed(self, step: Step, error: BaseException) -> None:
        """See `Notes`."""
        entry = self._entry(step)
        hooks = self.record.hooks
        if entry.open:
            record = self._closed(entry.open[-1])
        elif entry.condition is None and hooks and hooks[-1].entry == step.entry:
            record = hooks[-1]  # its result was no action that it may return
        else:
            record = self._hook(step)
            record.condition, entry.condition = entry.condition, None
        record.decision = Decision.FAILED_OPEN if step.fails_open else Decision.FAILED
        if step.way is not None:
            record.decision = Decision.REFUSED
        kind = failure_kind(error)
        record.failure = kind.value
        record.error = self._masking.text(error_text(error) if kind is FailureKind.EXCEPTION else said(error))
        record.changes = []
        if not step.fails_open:
            record.status, record.reason = step.failure_response.status, step.failure_response.details

    # --- the end

    def finish(self) -> ExchangeRecord:
        """The stream is over: return the whole record."""
        record, traffic = self.record, self._traffic
        record.milliseconds = _milliseconds(self._began)
        record.request, record.sent, record.response, record.answer = traffic.messages()
        if self._left_out:
            record.notes.append(f"{self._left_out} more calls of hooks are not shown")
        answer = traffic.immediate
        if answer is not None:
            self._judge(int(answer.status.code), answer.details)
        elif record.answer is not None:
            record.status = traffic.status
        elif record.verdict is Verdict.PASSED:
            record.notes.append("the response did not come to the engine: no policy of the route asked for it")
        return record

    def response(self) -> Response | None:
        """Return what goes to the client, as far as it was seen."""
        return self._traffic.response()

    def _judge(self, status: int, details: str) -> None:
        record = self.record
        record.status, record.reason = status, self._masking.text(details)
        ended = next((one for one in reversed(record.hooks) if _ends(one)), None)
        failed = tells_of_a_failure(details)
        if ended is not None and not details.startswith("policy_engine:"):
            record.policy, record.version, record.hook = ended.policy, ended.version, ended.hook
            record.verdict = Verdict(ended.decision.value)
        elif failed or status >= 400:
            record.verdict = Verdict.FAILED if failed else Verdict.DENIED
        else:
            record.verdict = Verdict.ANSWERED

    def _entry(self, step: Step) -> _Entry:
        return self._entries.setdefault(step.entry, _Entry())

    def _hook(self, step: Step) -> HookRecord:
        mode = "shadow" if getattr(step, "shadow", False) else "enforce"
        record = HookRecord(step.policy, step.version, step.entry, step.method, mode=mode)
        if len(self.record.hooks) < MOST_HOOKS:
            self.record.hooks.append(record)
        else:
            self._left_out += 1
        return record

    def _closed(self, note: _Note) -> HookRecord:
        note.record.milliseconds = _milliseconds(note.began)
        for entry in self._entries.values():
            if note in entry.open:
                entry.open.remove(note)
        return note.record

    def _shown(self, value: Any, variables: Mapping[str, frozenset[str] | None]) -> Any:
        """Return the value of a part of a condition fit to be shown, by the variables that it comes from."""
        if value is None or isinstance(value, bool | int | float):
            return value
        for name, keys in variables.items():
            if name.endswith(("headers", "query", "metadata")):
                if keys is None or any(self._masking.is_credential(key) for key in keys):
                    return "***"
            elif name == "request.query_string" and isinstance(value, str):
                return self._masking.query(value)
        return self._masking.value("", value)


def modes_in_words(mode: Any) -> dict[str, str]:
    """Return a `ProcessingMode` as the names of its fields' values."""
    return {
        one.name: one.enum_type.values_by_number[getattr(mode, one.name)].name
        for one in mode.DESCRIPTOR.fields
        if one.enum_type is not None
    }


def _ends(hook: HookRecord) -> bool:
    return hook.decision in _ENDED_BY_POLICY and hook.mode == "enforce"


def _milliseconds(began: float) -> float:
    return round((perf_counter() - began) * 1000, 3)
