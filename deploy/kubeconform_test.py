"""What is rendered for Kubernetes fits the schemas of its kinds, no field unknown. Runs on demand: built from Go modules."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploy.kubernetes_schemas import LOCATION, write_schemas
from tools.on_demand.go_programs import go_program
from tools.on_demand.kubernetes_files import monitoring_crds, openapi

HERE = Path(__file__).parent
RENDERED = sorted((HERE / "helm" / "rendered").glob("*.yaml"))


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("schemas")
    write_schemas(openapi(), monitoring_crds(), directory)
    return directory


def conforms(schemas: Path, text: str) -> tuple[bool, str]:
    command: list[str | Path] = [go_program("kubeconform"), "-strict", "-summary", "-schema-location"]
    command.append(str(schemas / LOCATION))
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode == 0 and "Skipped: 0" in done.stdout, done.stdout + done.stderr


def kustomized() -> str:
    command: list[str | Path] = [go_program("kubectl"), "kustomize", HERE / "kustomize" / "base"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.parametrize("file", RENDERED, ids=lambda file: file.stem)
def test_the_chart_conforms(schemas: Path, file: Path) -> None:
    held, said = conforms(schemas, file.read_text("utf-8"))
    assert held, said


def test_the_base_of_kustomize_conforms(schemas: Path) -> None:
    held, said = conforms(schemas, kustomized())
    assert held, said


@pytest.mark.parametrize(
    ("old", "new"),
    [("replicas: 2", "replica: 2"), ("replicas: 2", "replicas: two"), ("maxSurge: 1", "maxSurge: [1]")],
)
def test_what_does_not_conform_is_found(schemas: Path, old: str, new: str) -> None:
    """Else the tests above would show nothing."""
    text = kustomized()
    assert old in text
    assert not conforms(schemas, text.replace(old, new))[0]


def test_the_base_of_kustomize_is_scored_without_criticals(tmp_path: Path) -> None:
    file = tmp_path / "base.yaml"
    file.write_text(kustomized(), "utf-8")
    # The image is what an overlay sets.
    left_out = ("--ignore-container-cpu-limit", "--ignore-test", "container-image-tag")
    score = ("score", *left_out, "--output-format", "ci")
    command: list[str | Path] = [go_program("kube-score"), *score, file]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert [line for line in done.stdout.splitlines() if line.startswith("[CRITICAL]")] == []
