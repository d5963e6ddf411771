"""Writes the dashboards beside it: `python -m deploy.grafana.dashboards`.

Written, not clicked, so that a change of a metric is a change of one line here; a test holds the files fresh.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT, _PER_ROW = 8, 8, 3
_SCHEMA = 39
"""Version of Grafana's dashboard model: Grafana 10.4 and later read it."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph: its queries by the legend each has, and Grafana's name of the unit."""

    title: str
    queries: Mapping[str, str]
    unit: str = "short"


@dataclass(frozen=True, slots=True)
class Dashboard:
    """`variables` are chosen at the top, by name with the query of their values."""

    title: str
    panels: Sequence[Panel]
    variables: Mapping[str, str]


_ENGINES = {"instance": "label_values(policy_engine_build_info, instance)"}
_ROUTES = _ENGINES | {"route": "label_values(policy_engine_requests_total, route)"}
_POLICIES = _ENGINES | {"policy": "label_values(policy_engine_policy_duration_seconds_count, policy)"}


def _rate(metric: str, by: str = "", where: str = "") -> str:
    chosen = 'instance=~"$instance"' + (f", {where}" if where else "")
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{chosen}}}[$__rate_interval]))"


def _now(metric: str, where: str = "") -> str:
    return f'{metric}{{instance=~"$instance"{f", {where}" if where else ""}}}'


def _quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    return f"histogram_quantile({share:g}, {_rate(f'{metric}_bucket', ', '.join(filter(None, ('le', by))), where)})"


_DURATION = "policy_engine_policy_duration_seconds"
_ROUTE, _POLICY = 'route=~"$route"', 'policy=~"$policy"'

DASHBOARDS: Mapping[str, Dashboard] = {
    "overview": Dashboard(
        "Policy engine",
        (
            Panel("Requests", {"requests": _rate("policy_engine_streams_total")}, "reqps"),
            Panel("Denied and failed", {"{{decision}}": _rate("policy_engine_denials_total", "decision")}, "reqps"),
            Panel("In flight", {"{{instance}}": _now("policy_engine_streams_active")}),
            Panel(
                "Worker processes",
                {"serve": _now("policy_engine_workers"), "wanted": _now("policy_engine_workers_wanted")},
            ),
            Panel(
                "CPU", {"{{process}}": _rate("policy_engine_process_cpu_seconds_total", "instance, process")}, "cores"
            ),
            Panel("Memory", {"{{process}}": _now("policy_engine_process_resident_memory_bytes")}, "bytes"),
            Panel(
                "Delay of event loops",
                {
                    f"p{share * 100:g}": _quantile(share, "policy_engine_event_loop_delay_seconds")
                    for share in (0.5, 0.99)
                },
                "s",
            ),
            Panel("Servers that policies ask", {"{{kind}} {{name}}": _now("policy_engine_dependency_up")}),
            Panel(
                "Work on large bodies", {"{{outcome}}": _rate("policy_engine_offload_calls_total", "outcome")}, "ops"
            ),
            Panel("Configurations refused", {"{{instance}}": _now("policy_engine_configuration_rejections_total")}),
            Panel(
                "Certificates end in",
                {"{{setting}}": f"{_now('policy_engine_certificate_expiration_timestamp_seconds')} - time()"},
                "s",
            ),
            Panel("Requests without a chain", {"requests": _rate("policy_engine_unmapped_requests_total")}, "reqps"),
        ),
        _ENGINES,
    ),
    "route": Dashboard(
        "Policy engine: route",
        (
            Panel("Requests", {"{{route}}": _rate("policy_engine_requests_total", "route", _ROUTE)}, "reqps"),
            Panel(
                "Denials by reason",
                {"{{policy}} {{reason}}": _rate("policy_engine_denials_total", "policy, reason", _ROUTE)},
                "reqps",
            ),
            Panel("Time in policies, p99", {"{{policy}}": _quantile(0.99, _DURATION, "policy", _ROUTE)}, "s"),
            Panel(
                "Failures",
                {
                    "{{policy}} {{kind}} {{failure_mode}}": _rate(
                        "policy_engine_policy_failures_total", "policy, kind, failure_mode", _ROUTE
                    )
                },
                "ops",
            ),
            Panel(
                "Shadow",
                {"{{policy}} {{wanted}}": _rate("policy_engine_policy_shadow_total", "policy, wanted", _ROUTE)},
            ),
        ),
        _ROUTES,
    ),
    "policy": Dashboard(
        "Policy engine: policy",
        (
            Panel("Runs", {"{{version}}": _rate(f"{_DURATION}_count", "version", _POLICY)}, "ops"),
            Panel(
                "Time",
                {f"p{share * 100:g}": _quantile(share, _DURATION, where=_POLICY) for share in (0.5, 0.95, 0.99)},
                "s",
            ),
            Panel(
                "Left out by its condition", {"runs": _rate("policy_engine_policy_skipped_total", where=_POLICY)}, "ops"
            ),
            Panel(
                "Denials by reason", {"{{reason}}": _rate("policy_engine_denials_total", "reason", _POLICY)}, "reqps"
            ),
            Panel(
                "Failures",
                {
                    "{{kind}} {{failure_mode}}": _rate(
                        "policy_engine_policy_failures_total", "kind, failure_mode", _POLICY
                    )
                },
                "ops",
            ),
            Panel("Not reviewed", {"{{name}}": _now("policy_engine_not_reviewed")}),
        ),
        _POLICIES,
    ),
    "control-plane": Dashboard(
        "Policy engine: configuration",
        (
            Panel("Connected to the management server", {"{{instance}}": _now("policy_engine_xds_connected")}),
            Panel("Answers to it", {"{{answer}}": _rate("policy_engine_xds_responses_total", "answer")}, "ops"),
            Panel("Chains from it", {"{{instance}}": _now("policy_engine_xds_resources")}),
            Panel("Active configuration", {"{{instance}} {{version}}": _now("policy_engine_configuration_info")}),
            Panel(
                "Active since",
                {"{{instance}}": f"time() - {_now('policy_engine_configuration_active_since_seconds')}"},
                "s",
            ),
            Panel("Connections lost", {"{{instance}}": _now("policy_engine_xds_disconnections_total")}),
        ),
        _ENGINES,
    ),
}


def document(name: str) -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    one = DASHBOARDS[name]
    return {
        "uid": f"policy-engine-{name}",
        "title": one.title,
        "tags": ["policy-engine"],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_data_source(), *(_variable(*each) for each in one.variables.items())]},
        "panels": [_panel(number, panel) for number, panel in enumerate(one.panels)],
    }


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus"}


def _variable(name: str, query: str) -> dict[str, Any]:
    every = {"includeAll": True, "multi": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    return {"name": name, "type": "query", "datasource": _SOURCE, "query": query, "refresh": 2, **every}


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, _PER_ROW)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend, "datasource": _SOURCE}
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def text(name: str) -> str:
    """Return the file of a dashboard."""
    return json.dumps(document(name), indent=2) + "\n"


if __name__ == "__main__":
    for each in DASHBOARDS:
        (HERE / f"{each}.json").write_text(text(each), encoding="utf-8")
