"""A real kube-apiserver takes what is shipped for Kubernetes: the chart, kustomize's base, the sidecar, the manifests.

Runs on demand: kube-apiserver, etcd, kubectl and Helm are built from the Go module proxy, once. Pods are admitted under
PodSecurity `restricted`; there is no node that would run them.
"""

from __future__ import annotations

import copy
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from integration.controllers.attached import HERE, Manifest
from integration.controllers.kubernetes import Kubernetes, Refused, kubernetes
from tools.on_demand.go_programs import KUBERNETES, go_program
from tools.on_demand.kubernetes_files import envoy_gateway_crds, gateway_api_crds, istio_crds, monitoring_crds

DEPLOY = HERE.parent.parent / "deploy"
CHART = DEPLOY / "helm" / "policy-engine"
VALUES = {file.stem: file for file in sorted((DEPLOY / "helm" / "values").glob("*.yaml"))}
NAMESPACE = "policy-engine"
LEVELS = ("enforce", "audit", "warn")


@pytest.fixture(scope="module")
def api() -> Iterator[Kubernetes]:
    with tempfile.TemporaryDirectory(prefix="k8s-") as name, kubernetes(Path(name)) as found:
        found.install([*gateway_api_crds(), *envoy_gateway_crds(Path(name) / "crds"), *monitoring_crds()])
        found.install([istio_crds()])
        restricted = {f"pod-security.kubernetes.io/{level}": "restricted" for level in LEVELS}
        names = (NAMESPACE, "default", "istio-system", "llm", "shop", "bank", "gateway")
        for one in names:
            found.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one, "labels": restricted}})
            # Made by a controller elsewhere.
            found.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}, namespace=one)
        yield found


def rendered(values: Path) -> str:
    where = ("policy-engine", CHART, "--namespace", NAMESPACE, "--kube-version", KUBERNETES)
    command: list[str | Path] = [go_program("helm"), "template", *where, "--values", values]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def pods_of(text: str) -> Iterator[Manifest]:
    """Yield a Pod for each Deployment, as its controller would make it."""
    for one in yaml.safe_load_all(text):
        if one and one["kind"] == "Deployment":
            yield pod_of(one)


def pod_of(deployment: Manifest) -> dict[str, Any]:
    template = copy.deepcopy(deployment["spec"]["template"])
    template.setdefault("metadata", {}).pop("namespace", None)
    template["metadata"]["name"] = deployment["metadata"]["name"]
    return {"apiVersion": "v1", "kind": "Pod", **template}


def admitted(api: Kubernetes, pod: Manifest, namespace: str = NAMESPACE) -> None:
    """Create a pod and remove it; raises Refused."""
    said = api.apply(pod, namespace=namespace)
    api.kubectl("--namespace", namespace, "delete", "pod", pod["metadata"]["name"], "--now")
    assert "Warning" not in said, said


@pytest.mark.parametrize("values", VALUES)
def test_the_chart_is_refused_by_nothing(api: Kubernetes, values: str) -> None:
    text = rendered(VALUES[values])
    said = api.apply_text(text, NAMESPACE)
    assert "Warning" not in said, said
    for pod in pods_of(text):
        admitted(api, pod)


def test_the_base_of_kustomize_is_refused_by_nothing(api: Kubernetes) -> None:
    text = api.kubectl("kustomize", DEPLOY / "kustomize" / "base")
    said = api.apply_text(text, NAMESPACE)
    assert "Warning" not in said, said
    pods = list(pods_of(text))
    assert pods
    for pod in pods:
        admitted(api, pod)


def test_a_gateway_with_the_sidecar_is_refused_by_nothing(api: Kubernetes) -> None:
    (patch,) = (
        one["data"]["patch.yaml"]
        for one in yaml.safe_load_all(rendered(VALUES["sidecar"]))
        if one and "patch.yaml" in one.get("data", {})
    )
    api.apply(gateway_deployment(), namespace="gateway")
    api.kubectl("--namespace", "gateway", "patch", "deployment", "gateway", "--patch", patch)
    patched = yaml.safe_load(api.kubectl("--namespace", "gateway", "get", "deployment", "gateway", "--output", "yaml"))
    names = [one["name"] for one in patched["spec"]["template"]["spec"]["initContainers"]]
    assert names == ["policy-engine"]
    admitted(api, pod_of(patched), "gateway")


def gateway_deployment() -> dict[str, Any]:
    secure = {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    labels = {"app": "gateway"}
    envoy = {"name": "envoy", "image": "envoy", "securityContext": secure}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "gateway"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [envoy]}},
        },
    }


def without_seccomp(pod: dict[str, Any]) -> None:
    pod["spec"]["securityContext"].pop("seccompProfile", None)
    for container in pod["spec"]["containers"]:
        container["securityContext"].pop("seccompProfile", None)


def as_root(pod: dict[str, Any]) -> None:
    pod["spec"]["containers"][0]["securityContext"] |= {"runAsUser": 0, "runAsNonRoot": False}


def with_a_host_path(pod: dict[str, Any]) -> None:
    pod["spec"]["volumes"].append({"name": "host", "hostPath": {"path": "/"}})


@pytest.mark.parametrize("change", [without_seccomp, as_root, with_a_host_path])
def test_what_is_not_restricted_is_refused(api: Kubernetes, change: Any) -> None:
    """Else the tests above would show nothing."""
    text = rendered(VALUES["default"])
    api.apply_text(text, NAMESPACE)
    (pod,) = pods_of(text)
    changed: dict[str, Any] = dict(pod)
    change(changed)
    with pytest.raises(Refused, match="violates PodSecurity"):
        admitted(api, changed)


@pytest.mark.parametrize("golden", ["envoy_gateway.yaml", "istio.yaml"])
def test_what_is_written_for_controllers_is_refused_by_nothing(api: Kubernetes, golden: str) -> None:
    """Schemas and rules of the custom resource definitions are enforced, and unknown fields are errors."""
    said = api.apply_text((HERE / "golden" / golden).read_text("utf-8"))
    assert "Warning" not in said, said


def test_a_field_that_no_definition_has_is_refused(api: Kubernetes) -> None:
    text = (HERE / "golden" / "envoy_gateway.yaml").read_text("utf-8")
    assert "messageTimeout: 2s" in text
    with pytest.raises(Refused, match="messageTime"):
        api.apply_text(text.replace("messageTimeout: 2s", "messageTime: 2s", 1))
