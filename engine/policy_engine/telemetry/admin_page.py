"""The admin page for people: HTML that works without JavaScript; the script adds rates and the live trace.

Everything that is shown comes from configuration and requests, so that all of it is hostile text: it goes through
`text` into elements and attributes in quotes, and nowhere else. Scripts and styles are files of the engine's own, which
the content security policy says.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import urlencode

from policy_engine.telemetry.history import ConfigurationHistory
from policy_engine.telemetry.readiness import Check
from policy_engine.telemetry.samples import Samples
from policy_engine.worker.chains.spec import RouteSpec

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""Of the page's content: nothing from elsewhere, nothing inline, in no frame."""
ROUTES_ON_A_PAGE = 50
_JSON_PAGES = ("chains", "history", "build-info", "workers", "settings", "log-level", "metrics", "readyz", "livez")
_DURATION = "policy_engine_policy_duration_seconds_bucket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the page shows; `query` and `number` are what is looked for among routes, and the page of them."""

    ready: bool
    reason: str
    checks: Sequence[Check]
    history: ConfigurationHistory
    build: Mapping[str, Any]
    workers: Mapping[str, Any]
    samples: Samples
    denials: Sequence[Mapping[str, Any]]
    query: str = ""
    number: int = 1


def figures(samples: Samples, ready: bool, reason: str) -> dict[str, Any]:
    """Return what the script asks for again and again, as JSON data; times are in seconds."""
    denied = _by(samples, "policy_engine_denials", "decision")
    buckets = _by(samples, _DURATION, "le")
    failures = sum(value for _, value in samples.get("policy_engine_policy_failures", ()))
    return {
        "at": time.time(),
        "ready": ready,
        "reason": reason,
        "requests": int(sum(value for _, value in samples.get("policy_engine_requests", ()))),
        "denials": int(denied.get("denied", 0)),
        "failures": int(failures),
        "routes": _by(samples, "policy_engine_requests", "route"),
        "buckets": sorted(buckets.items(), key=lambda one: float(one[0])),
    }


def page(shown: Shown) -> str:
    """Return the whole page."""
    parts = [
        _head(shown),
        _figures(shown),
        _rejection(shown.history),
        _verification(shown.build),
        _routes(shown),
        _denials(shown.denials),
        _TRACE,
        _workers(shown.workers),
        _history(shown.history),
        _policies(shown.build),
    ]
    return _PAGE + "\n".join(part for part in parts if part) + "</body></html>\n"


def text(value: object) -> str:
    """Return `value` as it may stand in an element, or in an attribute in double quotes."""
    return escape(str(value), quote=True)


_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Policy engine</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/page.css">
<script src="/page.js" defer></script></head><body>
"""

_TRACE = """<h2 id="live">Live trace</h2><noscript><p class="dim">Needs JavaScript;
<code>policy-engine trace</code> shows the same in a terminal.</p></noscript>
<form id="follow" hidden><input name="route" placeholder="route key, * for anything" aria-label="route key">
<input name="where" placeholder="CEL: response.status >= 400" aria-label="condition" size="30">
<button>Follow</button> <span id="trace-state" class="dim"></span></form><table><tbody id="trace"></tbody></table>"""


def _head(shown: Shown) -> str:
    history = shown.history
    routes = len(history.active.routes) if history.active is not None else 0
    links = " ".join(f'<a href="/{one}">/{one}</a>' for one in _JSON_PAGES)
    degraded = (f"{one.name} {one.text}" for one in shown.checks if not one.ok and not one.decides)
    return "\n".join(
        [
            f"<h1>Policy engine {text(shown.build['engine'])}</h1><nav>{links}</nav>",
            f'<p><b id="state" class="{"ok" if shown.ready else "bad"}">{text(shown.reason)}</b></p>',
            *(f'<p class="bad">{text(one)}</p>' for one in degraded),
            f"<p>Configuration <code>{text(history.version or 'none')}</code>, {routes} routes.</p>",
        ]
    )


def _figures(shown: Shown) -> str:
    now = figures(shown.samples, shown.ready, shown.reason)
    cards = "".join(
        f'<div><b id="{name}-rate">-</b>{name}, <span id="{name}">{now[name]}</span> in all</div>'
        for name in ("requests", "denials", "failures")
    )
    return f'<div class="cards">{cards}<div><b id="latency">-</b>of a policy\'s hook</div></div>'


def _rejection(history: ConfigurationHistory) -> str:
    last = history.last_rejection
    if last is None or history.events[-1] is not last:
        return ""
    document = last.as_document()
    where = text(f"{document['time']} from {document['source']}; what was active before stays")
    problems = "".join(f"<pre>{text(one)}</pre>" for one in last.problems)
    return f'<h2>The last change was refused</h2><p class="bad">{where}</p>{problems}'


def _verification(build: Mapping[str, Any]) -> str:
    findings = build.get("verification", {}).get("findings", ())
    if not findings:
        return ""
    lines = "".join(f"<pre>{text(one)}</pre>" for one in findings)
    return f'<h2>Code that was not reviewed runs</h2><p class="bad">{len(findings)} findings</p>{lines}'


def _routes(shown: Shown) -> str:
    active = shown.history.active
    wanted = shown.query.casefold()
    found = [one for one in (active.routes if active is not None else ()) if _meets(one, wanted)]
    pages = max(1, -(-len(found) // ROUTES_ON_A_PAGE))
    number = min(max(1, shown.number), pages)
    some = found[(number - 1) * ROUTES_ON_A_PAGE : number * ROUTES_ON_A_PAGE]
    failures = _by(shown.samples, "policy_engine_policy_failures", "route")
    requests = _by(shown.samples, "policy_engine_requests", "route")
    denials = _by(shown.samples, "policy_engine_denials", "route")
    rows = [
        [
            f"<code>{text(one.route_key)}</code>",
            "".join(map(_policy, one.as_document()["policies"])) or '<span class="dim">(pass)</span>',
            f'{int(requests.get(one.route_key, 0))} <span class="dim" data-route="{text(one.route_key)}"></span>',
            str(int(denials.get(one.route_key, 0))),
            str(int(failures.get(one.route_key, 0))),
        ]
        for one in some
    ]
    heads = ("route key", "policies in request order", "requests", "denied", "failed")
    search = (
        f'<form action="/#chains"><input type="search" name="q" value="{text(shown.query)}" '
        'placeholder="route key or policy" aria-label="search"> <button>Search</button></form>'
    )
    count = f'<p class="dim">{len(found)} routes{_paging(shown.query, number, pages)}</p>'
    return f'<h2 id="chains">Chains</h2>{search}{count}{_table(heads, rows, numbers=3)}'


def _meets(route: RouteSpec, wanted: str) -> bool:
    return wanted in route.route_key.casefold() or any(wanted in one.name.casefold() for one in route.policies)


def _paging(query: str, number: int, pages: int) -> str:
    if pages == 1:
        return ""

    def link(to: int, words: str) -> str:
        return (
            f' <a href="/?{text(urlencode({"q": query, "page": to}))}#chains">{words}</a>' if 1 <= to <= pages else ""
        )

    return f", page {number} of {pages}{link(number - 1, 'previous')}{link(number + 1, 'next')}"


def _policy(entry: Mapping[str, Any]) -> str:
    """Return a chain's entry as people read it: the exact version, and the one written when that is another."""
    version, written = entry["version"], entry["requested_version"]
    name = text(f"{entry['name']} {version}" + (f" (written {written})" if written != version else ""))
    tags = [] if entry["enabled"] else ["disabled"]
    tags += ["shadow"] if entry["mode"] == "shadow" else []
    tags += ["fails open"] if entry["failure_mode"] == "open" else []
    tags += ["condition"] if entry["condition"] else []
    share = entry.get("share")
    tags += [f"{share['to'] - share['from']:g} %"] if share else []
    tags += [f"any of, group {entry['any_of']['number']}"] if entry.get("any_of") else []
    shown = "".join(f' <span class="tag odd">{text(one)}</span>' for one in tags)
    off = "" if entry["enabled"] else ' class="off"'
    facts = [f"failure mode {entry['failure_mode']}, timeout {entry['timeout']:g} s"]
    facts += [f"condition: {entry['condition']}"] if entry["condition"] else []
    parameters = json.dumps(entry["parameters"], indent=1, ensure_ascii=False)
    details = f"<pre>{text(chr(10).join(facts))}</pre><pre>{text(parameters)}</pre>"
    return f"<details><summary><span{off}>{name}</span>{shown}</summary>{details}</details>"


def _denials(denials: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in denials:
        request = [one.get("path") or "/", "--route", one.get("route", ""), "-X", one.get("method") or "GET"]
        said = shlex.join(["policy-engine", "explain", *map(str, request)])
        by = f"{one.get('policy') or 'the engine'} {one.get('policy_version') or ''}"
        where = urlencode({"q": one.get("route", "")})
        rows.append(
            [
                f"{text(time.strftime('%H:%M:%S', time.gmtime(one.get('time', 0))))}",
                f"<code>{text(one.get('request_id', ''))}</code>",
                f'<a href="/?{text(where)}#chains">{text(one.get("route", ""))}</a>',
                text(
                    f"{one.get('decision', '')} {one.get('status', '')} {one.get('reason') or one.get('failure') or ''}"
                ),
                text(by),
                f"<details><summary>explain</summary><pre>{text(said)}</pre></details>",
            ]
        )
    heads = ("time (UTC)", "request id", "route", "decision", "by", "")
    table = _table(heads, rows) if rows else '<p class="dim">None that was logged (decision_log.decisions).</p>'
    return f'<h2 id="denials">Last denials and failures</h2>{table}'


def _workers(workers: Mapping[str, Any]) -> str:
    rows = [
        [
            text(one["number"]),
            text(one["state"]),
            text(one.get("pid", "")),
            text(one.get("seconds_since_sign_of_life", "")),
        ]
        for one in workers.get("processes", ())
    ]
    said = f"{workers.get('restarts', 0)} restarts, {workers.get('hangs', 0)} of them for silence"
    heads = ("number", "state", "process", "seconds since its sign of life")
    return f'<h2 id="workers">Worker processes</h2><p class="dim">{text(said)}</p>{_table(heads, rows)}'


def _history(history: ConfigurationHistory) -> str:
    rows = []
    for event in reversed(history.events):
        one = event.as_document()
        changes = "".join(
            f"<div><b>{kind}</b> {text(', '.join(names))}{f' and {more} more' if more else ''}</div>"
            for kind, names, more in event.changes
        )
        problems = "".join(f"<pre>{text(problem)}</pre>" for problem in event.problems)
        outcome = f'<span class="{"bad" if event.problems else "ok"}">{text(one["outcome"])}</span>'
        rows.append(
            [
                text(one["time"]),
                f"<code>{text(one['version'])}</code>",
                text(one["source"]),
                outcome,
                changes + problems,
            ]
        )
    heads = ("time", "version", "source", "outcome", "differences, or what is wrong")
    return f'<h2 id="history">Configuration history</h2>{_table(heads, rows)}'


def _policies(build: Mapping[str, Any]) -> str:
    policies = [
        [text(one["name"]), text(one["version"]), f"<code>{text(one['digest'])}</code>", text(_reviewed(one))]
        for one in build["policies"]
    ]
    dependencies = [
        [text(one[name]) for name in ("name", "version", "licence")] for one in build.get("dependencies", ())
    ]
    return (
        f"<h2>Policies in this build</h2>{_table(('name', 'version', 'digest', 'reviewed'), policies)}"
        f"<h2>Dependencies in this build</h2>{_table(('name', 'version', 'licence'), dependencies)}"
    )


def _reviewed(policy: Mapping[str, Any]) -> str:
    reviewed = policy["reviewed_digest"]
    if reviewed is None:
        return "unknown"
    return "yes" if reviewed == policy["digest"] else f"no: {reviewed} was"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Return a table of cells that are HTML already; the last `numbers` columns are numbers."""
    first = len(heads) - numbers
    kinds = [' class="number"' if place >= first else "" for place in range(len(heads))]
    head = "".join(f"<th{kind}>{text(one)}</th>" for one, kind in zip(heads, kinds, strict=True))
    body = "".join(
        "<tr>"
        + "".join(
            f'<td{kind} data-head="{text(name)}">{cell}</td>'
            for name, kind, cell in zip(heads, kinds, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _by(samples: Samples, name: str, label: str) -> dict[str, float]:
    """Return the sums of a metric's samples by one label."""
    sums: dict[str, float] = {}
    for labels, value in samples.get(name, ()):
        if label in labels:
            sums[labels[label]] = sums.get(labels[label], 0) + value
    return sums
