"""Style and script of the admin page, served by the engine itself, so that the page needs no other server."""

from __future__ import annotations

STYLE = """\
:root{color-scheme:light dark;--text:#1d2329;--dim:#5c6670;--line:#d9dee3;--back:#fff;--box:#f5f7f9;--good:#17642c;
--bad:#a4121a;--odd:#7a4b00;--link:#0b57a4}
@media (prefers-color-scheme:dark){:root{--text:#e4e8ec;--dim:#9aa5b0;--line:#39424b;--back:#15191d;--box:#1f252b;
--good:#69c98a;--bad:#ff8a8a;--odd:#e6b566;--link:#7db7f5}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:76rem;padding:1rem;color:var(--text);
background:var(--back)}
h1{font-size:1.3rem;margin:.2rem 0}h2{font-size:1.05rem;margin:1.6rem 0 .4rem}
a{color:var(--link)}nav a{margin-right:.9rem}
.ok{color:var(--good)}.bad{color:var(--bad)}.odd{color:var(--odd)}.dim{color:var(--dim)}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:anywhere}
th{color:var(--dim);font-weight:600}td.number,th.number{text-align:right;white-space:nowrap}
code,pre,summary{font:13px/1.5 ui-monospace,monospace}
pre{background:var(--box);padding:.5rem;overflow:auto;max-height:24rem;margin:.3rem 0;white-space:pre-wrap}
.cards{display:flex;flex-wrap:wrap;gap:.6rem}
.cards div{background:var(--box);padding:.5rem .8rem;min-width:8.5rem}.cards b{display:block;font-size:1.25rem}
details{margin:.1rem 0}summary{cursor:pointer;overflow-wrap:anywhere}
input,button,select{font:inherit;padding:.25rem .5rem}
.off{text-decoration:line-through}.tag{border:1px solid var(--line);border-radius:.2rem;padding:0 .3rem;
font-size:.85em}
@media (max-width:42rem){body{padding:.6rem}table,tbody,tr,td{display:block}thead{display:none}
tr{border-bottom:1px solid var(--line);padding:.3rem 0}td{border:0;padding:.05rem 0}
td.number,th.number{text-align:left}td[data-head]::before{content:attr(data-head) ": ";color:var(--dim)}}
"""

SCRIPT = """\
"use strict";
const EVERY = 2000, MOST = 100;
const put = (id, text) => { const to = document.getElementById(id); if (to) to.textContent = text; };
let before = null;
const quantile = (buckets, part) => {
  const total = buckets.length ? buckets[buckets.length - 1][1] : 0;
  const found = buckets.find(([, count]) => total > 0 && count >= part * total);
  return found ? (found[0] === "+Inf" ? "more" : `\\u2264 ${Number(found[0]) * 1000} ms`) : "-";
};
const look = async () => {
  try {
    const now = await (await fetch("/figures")).json();
    put("state", now.ready ? "ready" : now.reason);
    document.getElementById("state").className = now.ready ? "ok" : "bad";
    if (before !== null) {
      const seconds = (now.at - before.at) || 1;
      for (const name of ["requests", "denials", "failures"])
        put(`${name}-rate`, `${(Math.max(0, now[name] - before[name]) / seconds).toFixed(1)}/s`);
      for (const row of document.querySelectorAll("[data-route]")) {
        const key = row.dataset.route;
        const rate = ((now.routes[key] || 0) - (before.routes[key] || 0)) / seconds;
        row.textContent = `${Math.max(0, rate).toFixed(1)}/s`;
      }
    }
    const earlier = before === null ? [] : before.buckets;
    const buckets = now.buckets.map(([bound, count], n) => [bound, count - (earlier[n] || [0, 0])[1]]);
    if (buckets.length && buckets[buckets.length - 1][1] > 0)  // else there is nothing newer to tell
      put("latency", `p50 ${quantile(buckets, 0.5)}, p99 ${quantile(buckets, 0.99)}`);
    for (const name of ["requests", "denials", "failures"]) put(name, String(now[name]));
    before = now;
  } catch (error) {
    put("state", "the engine does not answer");
    document.getElementById("state").className = "bad";
  }
};
if (document.getElementById("state")) { look(); setInterval(look, EVERY); }

const form = document.getElementById("follow");
let source = null;
if (form) {
  form.hidden = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const button = form.querySelector("button"), rows = document.getElementById("trace");
    if (source) { source.close(); source = null; button.textContent = "Follow"; return; }
    const query = new URLSearchParams();
    for (const name of ["route", "where"]) if (form.elements[name].value) query.set(name, form.elements[name].value);
    source = new EventSource(`/trace?${query}`);
    button.textContent = "Stop";
    put("trace-state", "waiting for requests");
    source.addEventListener("record", (one) => {
      const record = JSON.parse(one.data), row = document.createElement("tr");
      const request = Object.fromEntries((record.request || {}).headers || []);
      const shown = [record.request_id, record.route, `${request[":method"] || ""} ${request[":path"] || ""}`,
        `${record.verdict || ""} ${record.status || ""}`, [record.policy, record.reason].filter(Boolean).join(": "),
        record.milliseconds === undefined ? "" : `${record.milliseconds} ms`];
      for (const text of shown) row.insertCell().textContent = text === undefined ? "" : text;
      rows.prepend(row);
      while (rows.rows.length > MOST) rows.deleteRow(-1);
      put("trace-state", "");
    });
    source.addEventListener("end", () => { source.close(); source = null; button.textContent = "Follow"; });
    source.onerror = () => put("trace-state", "the trace is not to be had: a wrong condition, or too many listeners");
  });
}
"""
