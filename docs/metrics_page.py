"""Writes metrics.md, the reference of the metrics, from the engine's table: `python -m docs.metrics_page`.

A separate module so that the page is made, not typed; a test holds it fresh.
"""

from __future__ import annotations

from pathlib import Path

from policy_engine.telemetry.metrics import METRICS

PAGE = Path(__file__).resolve().parent / "metrics.md"

_HEAD = """\
# Metrics

Made from the engine's own table by `python -m docs.metrics_page`; change the text there. `/metrics` has them in the
Prometheus text format, summed over all worker processes; see [operator.md](operator.md#health-metrics-admin-pages).

| metric | kind | meaning |
|---|---|---|
"""


def page() -> str:
    """Return the whole page."""
    named = [(f"{name}_total" if kind == "counter" else name, kind, text) for name, (kind, text) in METRICS.items()]
    rows = [f"| `{name}` | {kind} | {text} |" for name, kind, text in named]
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
