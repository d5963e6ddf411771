"""The page that a client of `policy-engine dev` gets when a policy fails: what failed, and where in its code.

Never served by `policy-engine run`: a traceback tells an attacker more than anybody else.
"""

from __future__ import annotations

import html
import traceback
from pathlib import Path

from policy_engine.documents.error_text import said
from policy_engine.sdk import ImmediateResponse, Request
from policy_engine.worker.chains.compiled import Step

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


def failure_page(step: Step, error: BaseException, request: Request) -> ImmediateResponse:
    """Return the answer for a policy that failed: a page for a browser, else plain text, with the status as ever."""
    answer = step.failure_response
    trace = _traceback(error)
    title = f"policy {step.label} failed"
    if "text/html" not in (request.headers.get("accept") or ""):
        text = f"{title} in {step.method}\n\n{trace}"
        headers = {"content-type": "text/plain; charset=utf-8"}
        return ImmediateResponse(answer.status, _sendable(text), headers, details=answer.details)
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
    page = _PAGE.format_map({name: html.escape(value) for name, value in facts.items()})
    headers = {"content-type": "text/html; charset=utf-8", "cache-control": "no-store"}
    return ImmediateResponse(answer.status, _sendable(page), headers, details=answer.details)


def _sendable(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def _traceback(error: BaseException) -> str:
    """Return the traceback from where the policy's code begins: the engine's own frames above it tell nothing."""
    frame = error.__traceback__
    while frame is not None and Path(frame.tb_frame.f_code.co_filename).resolve().is_relative_to(_ENGINE):
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame or error.__traceback__)).rstrip()
