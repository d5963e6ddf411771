"""Alert rules and dashboards name metrics that there are, and each alert has its section of the runbook."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.dashboards import DASHBOARDS, text
from policy_engine.telemetry.metrics import METRICS

HERE = Path(__file__).parent
RULES = HERE / "prometheus" / "rules.yaml"
GRAFANA = HERE / "grafana"
RUNBOOK = HERE.parent / "docs" / "runbook.md"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]

_METRIC = re.compile(r"\bpolicy_(?:engine|control_plane)_\w+")


def exposed() -> Iterator[str]:
    """Return every name that `/metrics` shows."""
    for name, (kind, _) in METRICS.items():
        if kind == "histogram":
            yield from (f"{name}_{ending}" for ending in ("bucket", "count", "sum"))
        else:
            yield f"{name}_total" if kind == "counter" else name


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_is_about_metrics_that_there_are(alert: dict[str, Any]) -> None:
    named = set(_METRIC.findall(alert["expr"]))
    assert named
    assert named <= set(exposed())


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_has_a_section_of_the_runbook(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    assert alert["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
    assert f"\n## {name}\n" in RUNBOOK.read_text()
    assert alert["labels"]["severity"] in ("critical", "warning")


def test_the_runbook_has_no_other_sections() -> None:
    sections = re.findall(r"^## (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sections == [alert["alert"] for alert in ALERTS]


def test_the_chart_has_the_same_rules() -> None:
    assert (HERE / "helm" / "policy-engine" / "rules.yaml").read_bytes() == RULES.read_bytes()


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_about_metrics_that_there_are(name: str) -> None:
    shown = json.loads((GRAFANA / f"{name}.json").read_text())
    queries = [target["expr"] for panel in shown["panels"] for target in panel["targets"]]
    queries += [one["query"] for one in shown["templating"]["list"] if one["type"] == "query"]
    assert all(map(_METRIC.search, queries))
    assert {one for query in queries for one in _METRIC.findall(query)} <= set(exposed())


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_file_of_a_dashboard_is_fresh(name: str) -> None:
    assert (GRAFANA / f"{name}.json").read_text() == text(name), "run `python -m deploy.grafana.dashboards`"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_ids_and_places_of_their_own(name: str) -> None:
    panels = json.loads((GRAFANA / f"{name}.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_dashboards_have_ids_of_their_own() -> None:
    assert {file.stem for file in GRAFANA.glob("*.json")} == set(DASHBOARDS)
