"""What `policy-engine dev` shows in a worker process: each request at the terminal, and why a policy failed.

Never part of `policy-engine run`: a traceback tells an attacker more than anybody else.
"""

from __future__ import annotations

import html
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from policy_engine.documents.error_text import said
from policy_engine.explain.recorder import Ended, Wanted
from policy_engine.explain.text import render_request
from policy_engine.sdk import Headers, ImmediateResponse, Request
from policy_engine.worker.chains.compiled import Decisions, Step

_ENGINE = Path(__file__).resolve().parents[1]
_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
pre {{ background: #f4f4f4; border-left: 4px solid #b00020; overflow-x: auto; padding: 1rem }}
dt {{ font-weight: 600 }}
</style></head><body>
<h1>{title}</h1>
<p>{error}</p>
<pre>{trace}</pre>
<dl>
<dt>policy</dt><dd>{policy}, hook <code>{hook}</code></dd>
<dt>request</dt><dd><code>{method} {target}</code>, id {identifier}</dd>
<dt>route</dt><dd>{route}</dd>
</dl>
<p>This page is made by <code>policy-engine dev</code>. Behind <code>policy-engine run</code> a client gets
status {status} and the request id, nothing of the cause.</p>
</body></html>
"""


class TerminalLines:
    """Wants every request, and writes what became of it."""

    watching = True

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._wanted = Wanted(self._ended, body_limit=0)

    def wants(self, request: Request) -> Wanted | None:
        """See `Watcher`."""
        return self._wanted

    def dropped(self) -> None:
        """See `Watcher`."""

    def _ended(self, ended: Ended) -> None:
        self._write(render_request(ended.record.as_document()))


class ShownFailures:
    """Has clients shown why a policy failed; see `worker.chains.compiled.Decisions`. `log` hears what it would else."""

    def __init__(self, log: Decisions | None) -> None:
        self._log = log

    def answered(
        self, step: Step, answer: ImmediateResponse, request: Request, error: BaseException | None = None
    ) -> ImmediateResponse:
        """See `Decisions`."""
        told = answer if self._log is None else self._log.answered(step, answer, request, error)
        return told if error is None else failure_page(step, told, error, request)

    def failed_open(self, step: Step, error: BaseException, request: Request) -> None:
        """See `Decisions`."""
        if self._log is not None:
            self._log.failed_open(step, error, request)

    def refused(self, answer: ImmediateResponse, route: str, headers: Headers) -> ImmediateResponse:
        """See `Decisions`."""
        return answer if self._log is None else self._log.refused(answer, route, headers)


def failure_page(step: Step, answer: ImmediateResponse, error: BaseException, request: Request) -> ImmediateResponse:
    """Return `answer` with what failed: as a page for a browser, else as plain text."""
    trace = _traceback(error)
    title = f"policy {step.label} failed"
    if "text/html" not in (request.headers.get("accept") or ""):
        return _with(answer, f"{title} in {step.method}\n\n{trace}\n", "text/plain")
    facts = {
        "title": title,
        "error": said(error),
        "trace": trace,
        "policy": step.label,
        "hook": step.method,
        "method": request.method,
        "target": request.target,
        "identifier": request.id or "none",
        "route": request.route,
        "status": str(answer.status),
    }
    return _with(answer, _PAGE.format_map({name: html.escape(value) for name, value in facts.items()}), "text/html")


def _with(answer: ImmediateResponse, text: str, media_type: str) -> ImmediateResponse:
    headers = {**answer.headers, "content-type": f"{media_type}; charset=utf-8", "cache-control": "no-store"}
    return replace(answer, body=text.encode(errors="backslashreplace"), headers=headers)


def _traceback(error: BaseException) -> str:
    """Return the traceback from where the policy's code begins: the engine's own frames above it tell nothing."""
    frame = error.__traceback__
    while frame is not None and Path(frame.tb_frame.f_code.co_filename).resolve().is_relative_to(_ENGINE):
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame or error.__traceback__)).rstrip()
