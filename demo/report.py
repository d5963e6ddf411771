"""Tells what the demo does: for people, in colour when they look at a terminal, or as one JSON object a line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from demo.outcome import Outcome

_GREEN, _RED, _BOLD, _DIM = "32", "31", "1", "2"


class Report(Protocol):
    """What the demo has to say."""

    def step(self, text: str) -> None:
        """Something was done."""

    def facts(self, title: str, facts: Mapping[str, str]) -> None:
        """Named values worth keeping: versions, URLs, paths."""

    def outcome(self, number: int, outcome: Outcome) -> None:
        """A request was answered."""

    def verdict(self, sent: int, failed: int) -> None:
        """All requests were sent."""


class HumanReport:
    """A block of lines for each request."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._colour = stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

    def step(self, text: str) -> None:
        """Print one line."""
        self._line(f"{self._paint('·', _DIM)} {text}")

    def facts(self, title: str, facts: Mapping[str, str]) -> None:
        """Print a table of two columns."""
        self._line(f"\n{self._paint(title, _BOLD)}")
        width = max(map(len, facts))
        for name, value in facts.items():
            self._line(f"  {name:<{width}}  {value}")

    def outcome(self, number: int, outcome: Outcome) -> None:
        """Print what was sent, which policies ran, what came back and what the upstream saw."""
        case = outcome.case
        sent = "".join(f"  {name}: {value}" for name, value in case.shown_headers())
        mark = self._paint("as expected", _GREEN) if not outcome.faults else self._paint("NOT AS EXPECTED", _RED)
        self._line(f"\n{self._paint(f'{number:2}  {case.title}', _BOLD)}")
        self._line(f"    sent      GET {case.target}{sent}")
        self._line(f"    policies  {', '.join(outcome.policies) or 'none'}")
        self._line(f"    answer    {outcome.reply.status}{_visible(outcome)}  {mark}")
        self._line(f"    upstream  {_upstream(outcome)}")
        for fault in outcome.faults:
            self._line(f"    {self._paint(fault, _RED)}")

    def verdict(self, sent: int, failed: int) -> None:
        """Print the sum."""
        text = f"{sent} requests, all as expected" if not failed else f"{failed} of {sent} requests NOT as expected"
        self._line(f"\n{self._paint(text, _RED if failed else _GREEN)}")

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


class JsonReport:
    """One JSON object a line, with its kind under `event`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def step(self, text: str) -> None:
        """Write a `step` event."""
        self._write("step", text=text)

    def facts(self, title: str, facts: Mapping[str, str]) -> None:
        """Write a `facts` event."""
        self._write("facts", title=title, facts=dict(facts))

    def outcome(self, number: int, outcome: Outcome) -> None:
        """Write a `request` event."""
        case, upstream = outcome.case, outcome.upstream
        self._write(
            "request",
            number=number,
            title=case.title,
            sent={"method": "GET", "target": case.target, "headers": case.shown_headers()},
            policies=outcome.policies,
            answer={"status": outcome.reply.status, "headers": outcome.reply.headers},
            upstream=None
            if upstream is None
            else {"target": upstream.target, "headers": _without_tokens(upstream.headers)},
            as_expected=not outcome.faults,
            faults=outcome.faults,
        )

    def verdict(self, sent: int, failed: int) -> None:
        """Write a `verdict` event."""
        self._write("verdict", sent=sent, failed=failed)

    def _write(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}), file=self._stream, flush=True)


def report_for(*, as_json: bool) -> Report:
    """Return the report that writes to standard output."""
    return JsonReport(sys.stdout) if as_json else HumanReport(sys.stdout)


def _visible(outcome: Outcome) -> str:
    names = [name for name, value in outcome.case.client_sees.items() if value is not None]
    shown = "".join(f"  {name}: {outcome.reply.header(name)}" for name in names)
    if outcome.reply.status >= 400 and outcome.reply.body:
        shown += f"  {_said(outcome.reply.body)}"
    return shown


def _upstream(outcome: Outcome) -> str:
    if outcome.upstream is None:
        return "not reached"
    names = outcome.case.upstream_sees or {}
    return "reached" + "".join(f"  {name}: {outcome.upstream.header(name)}" for name in names)


def _without_tokens(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, "***" if name in {"authorization", "x-api-key"} else value) for name, value in headers]


def _said(body: bytes) -> str:
    """Return what a denial says: the title of problem details, the beginning of any other body."""
    try:
        return str(json.loads(body)["title"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace").strip()[:80]
