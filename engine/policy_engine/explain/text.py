"""A record as people read it in a terminal; made from its JSON form, so that live records look like offline ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]

_DECISIONS = {
    "passed": "no change",
    "changed": "changed",
    "skipped": "skipped, its condition is false",
    "answered": "answered",
    "denied": "denied",
    "refused": "refused",
    "failed": "failed, request denied",
    "failed_open": "failed, skipped (failure mode open)",
    "unfinished": "did not end",
}


def render(record: Document) -> str:
    """Return the whole record, several lines long."""
    return "\n".join([*_head(record), *_hooks(record), *_end(record)]) + "\n"


def render_line(record: Document) -> str:
    """Return the record in one line: time, request, route, verdict, and who decided what for."""
    pseudo = _pseudo(record.get("request"))
    parts = [
        record["time"],
        f"{pseudo.get(':method', '?')} {pseudo.get(':path', '?')}",
        f"route={record['route']}",
        _verdict(record),
    ]
    if record.get("milliseconds") is not None:
        parts.append(f"{record['milliseconds']:g} ms")
    if record.get("request_id"):
        parts.append(f"request_id={record['request_id']}")
    return "  ".join(parts)


def render_request(record: Document) -> str:
    """Return what became of a request, for whoever watches them come: a line, and what each policy did."""
    pseudo = _pseudo(record.get("request"))
    took = f"  {record['milliseconds']:g} ms" if record.get("milliseconds") is not None else ""
    answer = _pseudo(record.get("answer")).get(":status") if record.get("status") is None else None
    status = f", status {answer}" if answer else ""
    line = f"{pseudo.get(':method', '?')} {pseudo.get(':path', '?')}  {_verdict(record)}{status}{took}"
    hooks = [line for hook in record.get("hooks") or () for line in _hook(hook)]
    return "\n".join([f"{line}  [{record['route'] or 'no route'}]", *hooks])


def _head(record: Document) -> Iterator[str]:
    pseudo = _pseudo(record.get("request"))
    yield f"{pseudo.get(':method', '?')} {pseudo.get(':path', '?')}  host {pseudo.get(':authority', '?')}"
    yield f"  route {record['route'] or '(none)'}, request id {record.get('request_id') or '(none)'}"
    modes = record.get("modes") or {}
    asked = [f"{name} {mode}" for name, mode in modes.items() if mode not in ("SKIP", "NONE", "DEFAULT")]
    if modes:
        yield f"  asked of Envoy: {', '.join(asked)}"
    yield ""


def _hooks(record: Document) -> Iterator[str]:
    hooks = record.get("hooks") or ()
    if not hooks:
        yield "  no policy ran"
        yield ""
    for hook in hooks:
        yield from _hook(hook)
    if hooks:
        yield ""


def _hook(hook: Document) -> Iterator[str]:
    decision = str(_DECISIONS.get(hook["decision"], hook["decision"]))
    if hook.get("status") is not None and hook["decision"] in ("denied", "answered", "refused", "failed"):
        decision += f" with {hook['status']}"
    skipped = hook["decision"] == "skipped" and hook.get("reason")
    if skipped:
        decision = f"skipped, {hook['reason']}"
    would = ""
    if hook.get("mode") == "shadow":
        would = " (in shadow)" if hook["decision"] in ("passed", "skipped") else " (in shadow: not applied)"
    took = f", {hook['milliseconds']:g} ms" if hook.get("milliseconds") is not None else ""
    yield f"  {hook['entry'] + 1}. {_policy(hook)}  {hook['hook']}: {decision}{would}{took}"
    condition = hook.get("condition")
    if condition:
        yield from _condition(condition)
    if hook.get("error"):
        yield f"       {hook.get('failure')}: {hook['error']}"
    if hook.get("reason") and not skipped:
        yield f"       reason: {hook['reason']}"
    for change in hook.get("changes") or ():
        yield f"       {_change(change)}"


def _policy(of: Document) -> str:
    """Return the policy of a hook or a record, with its version unless it is a group, which has none."""
    return f"{of['policy']} {of.get('version', '')}".rstrip()


def _condition(condition: Document) -> Iterator[str]:
    result = condition.get("result")
    value = condition.get("error") or json.dumps(result)
    yield f"       when {_one_line(condition['text'])}  →  {value}"
    for part in condition.get("parts") or ():
        shown = part.get("error") or json.dumps(part.get("value"), ensure_ascii=False)
        if part["depth"] or len(condition["parts"]) > 1:
            yield f"         {'  ' * part['depth']}{_one_line(part['text'])}  →  {shown}"


def _change(change: Document) -> str:
    before, after = change.get("before"), change.get("after")
    if before is None:
        return f"+ {change['what']}: {after}"
    if after is None:
        return f"- {change['what']}: {before}"
    return f"~ {change['what']}: {before} → {after}"


def _end(record: Document) -> Iterator[str]:
    yield f"{_verdict(record)}"
    for note in record.get("notes") or ():
        yield f"  note: {note}"
    if record.get("sent"):
        yield "to the upstream:"
        yield from _message(record["sent"])
    if record.get("answer"):
        yield "to the client:"
        yield from _message(record["answer"])
    for namespace, values in (record.get("metadata") or {}).items():
        yield f"dynamic metadata {namespace}: {json.dumps(values, ensure_ascii=False)}"


def _verdict(record: Document) -> str:
    verdict, status = record["verdict"], record.get("status")
    if verdict == "passed":
        return "PASSED" if status is None else f"PASSED, status {status}"
    by = f"{_policy(record)} ({record['hook']})" if record.get("policy") else "the engine itself"
    reason = f": {record['reason']}" if record.get("reason") else ""
    return f"{verdict.upper()}{'' if status is None else f' with {status}'} by {by}{reason}"


def _message(message: Document) -> Iterator[str]:
    for name, value in message["headers"]:
        yield f"  {name}: {value}"
    size = message.get("body_bytes")
    if size:
        yield f"  ({size} bytes of body)"
        for line in (message.get("body") or "").split("\n") if message.get("body") else ():
            yield f"  | {line}"
    for name, value in message.get("trailers") or ():
        yield f"  trailer {name}: {value}"


def _pseudo(message: Document | None) -> dict[str, str]:
    headers: Sequence[Sequence[str]] = message["headers"] if message else ()
    return {name: value for name, value in headers if name.startswith(":")}


def _one_line(text: str) -> str:
    return " ".join(text.split())
