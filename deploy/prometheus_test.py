"""Alert rules name metrics that there are, and each alert has its section of the runbook."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from policy_engine.telemetry.metrics import METRICS

HERE = Path(__file__).parent
RULES = HERE / "prometheus" / "rules.yaml"
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
