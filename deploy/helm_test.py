"""The chart, rendered by Helm itself: linted, scored, and as it is in `helm/rendered`. Runs on demand."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.on_demand.go_programs import go_program

HELM = Path(__file__).parent / "helm"
CHART = HELM / "policy-engine"
VALUES = sorted((HELM / "values").glob("*.yaml"))
KUBERNETES = "1.34.0"


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([go_program("helm"), *arguments], check=False, capture_output=True, text=True, timeout=120)


def rendered(values: Path) -> str:
    where = ("policy-engine", CHART, "--namespace", "policy-engine", "--kube-version", KUBERNETES)
    done = helm("template", *where, "--values", values)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_the_lint_of_helm_has_nothing_against_it(values: Path) -> None:
    done = helm("lint", CHART, "--strict", "--values", values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_it_is_rendered_as_it_was(values: Path) -> None:
    """After a change: `helm template policy-engine … --values V > deploy/helm/rendered/V`, and look at the difference."""
    assert rendered(values) == (HELM / "rendered" / values.name).read_text()


@pytest.mark.parametrize("values", [one for one in VALUES if one.stem != "sidecar"], ids=lambda path: path.stem)
def test_it_is_scored_without_criticals(values: Path, tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(rendered(values))
    # Without a limit of CPU: the kernel would stop the engine for tens of milliseconds at a time.
    score = ("score", "--ignore-container-cpu-limit", "--output-format", "ci")
    command: list[str | Path] = [go_program("kube-score"), *score, file]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert [line for line in done.stdout.splitlines() if line.startswith("[CRITICAL]")] == []


@pytest.mark.parametrize(("name", "value"), [("mode", "daemon"), ("settings.listen", "0.0.0.0:1"), ("replica", "3")])
def test_values_that_cannot_work_are_refused(name: str, value: str) -> None:
    done = helm("template", "policy-engine", CHART, "--kube-version", KUBERNETES, "--set", f"{name}={value}")
    assert done.returncode != 0
    assert "values" in done.stderr
