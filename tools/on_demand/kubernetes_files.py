"""What Kubernetes and those who extend it say of their kinds, as files out of their Go modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tools.on_demand.go_programs import ENVOY_GATEWAY, ISTIO, KUBERNETES, module_directory

GATEWAY_API: Final = "v1.6.1"
"""What the Envoy Gateway of these tests is made with."""

PROMETHEUS_OPERATOR: Final = "v0.85.0"


def openapi() -> Any:
    """Return the description of all kinds of Kubernetes itself (OpenAPI 2)."""
    directory = module_directory("k8s.io/kubernetes", KUBERNETES)
    return json.loads((directory / "api" / "openapi-spec" / "swagger.json").read_text("utf-8"))


def gateway_api_crds() -> list[Path]:
    """Return the custom resource definitions of Gateway API, its experimental ones, in files."""
    directory = module_directory("sigs.k8s.io/gateway-api", GATEWAY_API) / "config" / "crd" / "experimental"
    return sorted(directory.glob("gateway.networking.k8s.io_*s.yaml"))


def envoy_gateway_crds(directory: Path) -> list[Path]:
    """Return those of Envoy Gateway in files, without the condition of its chart around each."""
    chart = module_directory("github.com/envoyproxy/gateway", ENVOY_GATEWAY) / "charts" / "gateway-crds-helm"
    directory.mkdir()
    for file in sorted((chart / "templates" / "generated").glob("*.yaml")):
        lines = [line for line in file.read_text("utf-8").splitlines() if not line.startswith("{{")]
        (directory / file.name).write_text("\n".join(lines) + "\n", "utf-8")
    return sorted(directory.glob("*.yaml"))


def monitoring_crds() -> list[Path]:
    """Return those of ServiceMonitor and PrometheusRule in files."""
    module = module_directory("github.com/prometheus-operator/prometheus-operator", PROMETHEUS_OPERATOR)
    directory = module / "example" / "prometheus-operator-crd"
    return [directory / f"monitoring.coreos.com_{name}.yaml" for name in ("servicemonitors", "prometheusrules")]


def istio_crds() -> Path:
    """Return the file with those of Istio."""
    return module_directory("istio.io/istio", ISTIO) / "manifests" / "charts" / "base" / "files" / "crd-all.gen.yaml"
