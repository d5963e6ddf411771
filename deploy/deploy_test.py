"""The ways of running the engine that are shipped: each is read, held to what it has to be, and its settings started."""

from __future__ import annotations

import configparser
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.pod_security import not_careful, not_restricted
from integration.harness.processes import Process, free_port, python_program
from policy_engine.cli import main
from policy_engine.processes.handover import READY_SECONDS
from policy_engine.processes.upgrade import GRACE_SECONDS
from policy_engine.settings.loading import load_settings

HERE = Path(__file__).parent
POLICIES = HERE.parent / "policies"
CHART = HERE / "helm" / "policy-engine"
BASE = HERE / "kustomize" / "base"
COMPOSE = HERE / "compose"
UNIT = HERE / "systemd" / "policy-engine.service"
SETTINGS = {
    "compose": COMPOSE / "policy-engine.yaml",
    "kustomize": BASE / "policy-engine.yaml",
    "systemd": HERE / "systemd" / "policy-engine.yaml",
}
RENDERED = sorted((HERE / "helm" / "rendered").glob("*.yaml"))


def manifests(*files: Path) -> list[Any]:
    return [one for file in files for one in yaml.safe_load_all(file.read_text()) if one]


def base() -> list[Any]:
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    return manifests(*(BASE / name for name in kustomization["resources"]))


def pods(some: list[Any]) -> Iterator[Any]:
    """The specs of pods, also those that a patch for a gateway has in it."""
    for one in some:
        if one["kind"] == "Deployment":
            yield one["spec"]["template"]["spec"]


def patches(some: list[Any]) -> Iterator[Any]:
    for one in some:
        if one["kind"] == "ConfigMap" and "patch.yaml" in one["data"]:
            yield yaml.safe_load(one["data"]["patch.yaml"])["spec"]["template"]["spec"]


ALL: dict[str, Any] = {"kustomize": base, **{f"helm-{file.stem}": partial(manifests, file) for file in RENDERED}}


# -- Kubernetes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_pods_are_restricted_and_careful(name: str) -> None:
    some = ALL[name]()
    found = list(pods(some))
    for pod in found:
        assert list(not_restricted(pod)) == []
        assert list(not_careful(pod["containers"][0])) == []
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
    for patch in patches(some):
        (engine,) = patch["initContainers"]
        assert engine["restartPolicy"] == "Always"
        assert list(not_restricted({"containers": [engine]})) == []
        assert list(not_careful(engine)) == []
    assert found or list(patches(some))


@pytest.mark.parametrize("name", [name for name in ALL if "sidecar" not in name])
def test_pods_come_and_go_without_a_lost_request(name: str) -> None:
    some = ALL[name]()
    (deployment,) = (one for one in some if one["kind"] == "Deployment")
    spec = deployment["spec"]
    assert spec["minReadySeconds"] >= 3
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    texts = [value for one in some if one["kind"] == "ConfigMap" for value in one["data"].values()]
    settings = yaml.safe_load(
        next((text for text in texts if "drain_timeout" in text), SETTINGS["kustomize"].read_text())
    )
    drain = int(settings["drain_timeout"].removesuffix("s"))
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > drain
    kinds = {one["kind"] for one in some}
    assert {"Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount"} <= kinds
    (service,) = (one for one in some if one["kind"] == "Service")
    assert service["spec"]["clusterIP"] == "None"
    protocols = {port["name"]: port["appProtocol"] for port in service["spec"]["ports"]}
    tls = "tls" in settings
    assert protocols["ext-proc"] == ("https" if tls else "kubernetes.io/h2c")
    (container,) = spec["template"]["spec"]["containers"]
    assert ("grpc" in container["readinessProbe"]) is not tls
    assert isinstance(settings["workers"], int)  # "auto" would count the node's cores


def test_rendered_charts_are_there() -> None:
    """They are written by `//deploy:helm_test`, which runs Helm."""
    assert {file.stem for file in RENDERED} >= {"default", "everything", "sidecar"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mode": "daemon"}, "daemon"),
        ({"workers": "auto"}, "auto"),
        ({"settings": {"listen": ["0.0.0.0:1"]}}, "listen"),
        ({"image": {"repository": "a", "digest": "sha256:0"}}, "sha256:0"),
        ({"chains": {"files": {"chains.txt": ""}}}, "chains.txt"),
        ({"resources": {"requests": {"cpu": "1"}, "limits": {}}}, "memory"),
        ({"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}}, "minAvailable"),
        ({"replica": 3}, "replica"),
    ],
)
def test_values_that_cannot_work_are_refused(values: Any, said: str) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    with pytest.raises(jsonschema.ValidationError, match=said):
        jsonschema.validate(values, schema)


def test_default_values_are_valid_and_all_of_them_are_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(values, schema)
    assert schema["properties"].keys() - {"global"} == values.keys()


# -- one machine --------------------------------------------------------------------------------------------------


def test_compose_keeps_containers_in_bounds() -> None:
    services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == "65532:65532"
    engine = services["engine"]
    assert engine["healthcheck"]["test"][1:] == ["/usr/local/bin/policy-engine", "healthcheck"]
    drain = load_settings(SETTINGS["compose"], {}).drain_timeout
    assert int(engine["stop_grace_period"].removesuffix("s")) > drain
    for service in services.values():
        for volume in service["volumes"]:
            assert (COMPOSE / volume.split(":")[0]).exists()


def test_the_envoy_of_compose_is_what_the_engine_writes(tmp_path: Path) -> None:
    written = tmp_path / "envoy.yaml"
    chains = ["--chains", str(COMPOSE / "chains"), "--policies-directory", str(POLICIES)]
    where = ["--engine", "engine:9002", "--ingress", "0.0.0.0:10000", "--upstream", "upstream:8080"]
    assert main(["envoy-config", "--target", "bootstrap", *chains, *where, "--output", str(written)]) == 0
    assert written.read_text() == (COMPOSE / "envoy.yaml").read_text()


def unit() -> configparser.RawConfigParser:
    found = configparser.RawConfigParser(strict=False)
    found.optionxform = str  # type: ignore[assignment,method-assign] # names of directives have capitals
    found.read_string("\n".join(line for line in UNIT.read_text().splitlines() if not line.startswith("#")))
    return found


def test_the_unit_is_in_bounds_and_waits_for_requests_in_flight() -> None:
    service = dict(unit()["Service"])
    settings = load_settings(SETTINGS["systemd"], {})
    assert int(service["TimeoutStopSec"]) > settings.drain_timeout
    assert service["User"] == "policy-engine"
    for name in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "LockPersonality", "RestrictSUIDSGID"):
        assert service[name] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert int(service["LimitNOFILE"]) >= 65536
    assert settings.listen[0].startswith(f"unix:/run/{service['RuntimeDirectory']}/")


def test_a_reload_of_the_unit_upgrades_it() -> None:
    service = dict(unit()["Service"])
    settings = load_settings(SETTINGS["systemd"], {})
    # systemd has to know which process the service is when it is another one.
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert service["ExecReload"].split()[1] == "upgrade"
    assert service["ExecReload"].split()[2:] == service["ExecStart"].split()[2:]
    assert str(settings.upgrade.socket).startswith(f"/run/{service['RuntimeDirectory']}/")
    assert int(service["TimeoutStartSec"]) > READY_SECONDS + GRACE_SECONDS


@pytest.mark.parametrize("name", SETTINGS)
def test_an_engine_with_these_settings_becomes_ready(name: str, tmp_path: Path) -> None:
    """Where it listens and where its files are is this machine's; everything else is as it is shipped."""
    health = ["--config", str(SETTINGS[name]), "--health-listen", f"127.0.0.1:{free_port()}"]
    here = ["--listen", f"unix:{tmp_path}/e.sock?mode=0660", "--admin-listen", "off", "--workers", "1"]
    files = ["--chains", str(COMPOSE / "chains"), "--policies-directory", str(POLICIES)]
    command, environment = python_program("policy_engine", "run", *health, *here, *files)
    with Process("engine", command, log_path=tmp_path / "log", env=environment) as engine:
        engine.wait_until(lambda: main(["healthcheck", *health]) == 0, what="ready")
        assert (tmp_path / "e.sock").stat().st_mode & 0o777 == 0o660
    assert main(["healthcheck", *health]) == 1
