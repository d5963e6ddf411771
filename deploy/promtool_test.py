"""Metrics, alert rules and dashboards, held against Prometheus' own tool (Debian package `prometheus`). Runs on demand."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.grafana.dashboards import DASHBOARDS
from policy_engine.telemetry.exposition import exposition

RULES = Path(__file__).parent / "prometheus"
PROMTOOL = shutil.which("promtool")

pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not there")


def promtool(*arguments: str, given: bytes = b"") -> str:
    command = [PROMTOOL or "promtool", *arguments]
    done = subprocess.run(command, input=given, capture_output=True, check=False, cwd=RULES, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return (done.stdout + done.stderr).decode()


def test_it_has_nothing_against_the_metrics() -> None:
    assert promtool("check", "metrics", given=exposition({})) == ""


def test_it_reads_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", "rules.yaml")


def test_alerts_are_raised_by_what_they_are_for_and_by_nothing_else() -> None:
    promtool("test", "rules", "rules_test.yaml")


def test_it_reads_the_queries_of_dashboards(tmp_path: Path) -> None:
    queries = [
        query.replace("$__rate_interval", "5m")
        for dashboard in DASHBOARDS.values()
        for panel in dashboard.panels
        for query in panel.queries.values()
    ]
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", str(file))
