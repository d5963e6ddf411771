"""Runs istiod on this machine against a running API of Kubernetes, and a gateway's Envoy that it configures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from integration.controllers.kubernetes import Kubernetes
from integration.harness import client
from integration.harness.envoy import ARGUMENTS, admin_port_from, is_ready
from integration.harness.processes import Process, free_port
from tools.on_demand.go_programs import go_program

_SYSTEM = "istio-system"
_WITHOUT = {
    # What only the proxies of Istio's own images have.
    "PILOT_ENABLE_METADATA_EXCHANGE": "false",
    "PILOT_ENABLE_ALPN_FILTER": "false",
    # And what needs certificates, or webhooks that the API would have to reach.
    "PILOT_CERT_PROVIDER": "none",
    "ENABLE_CA_SERVER": "false",
    "INJECT_ENABLED": "false",
}
_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Istiod:
    """A running istiod; `port` is that of its xDS."""

    process: Process
    port: int


@contextlib.contextmanager
def istiod(directory: Path, api: Kubernetes) -> Iterator[Istiod]:
    """Start istiod for this API, all of its files in `directory`."""
    http, grpc, monitoring = free_port(), free_port(), free_port()
    mesh = directory / "mesh.yaml"
    # The default names Prometheus, which is a filter of Istio's own images.
    mesh.write_text(yaml.safe_dump({"defaultProviders": {"metrics": []}, "accessLogFile": ""}), "utf-8")
    command: list[str | Path] = [
        *(go_program("pilot-discovery"), "discovery", "--kubeconfig", api.config, "--meshConfig", mesh),
        *("--httpAddr", f"127.0.0.1:{http}", "--grpcAddr", f"127.0.0.1:{grpc}"),
        *("--httpsAddr", "", "--secureGRPCAddr", "", "--monitoringAddr", f"127.0.0.1:{monitoring}"),
        *("--ctrlz_port", "0", "--namespace", _SYSTEM),
    ]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "POD_NAMESPACE": _SYSTEM, **_WITHOUT}
    log = directory / "istiod.log"
    with Process("istiod", command, log_path=log, env=environment, cwd=directory) as process:
        process.wait_until(lambda: client.send(http, "GET", "/ready").status == 200, what="ready", timeout_s=_SECONDS)
        yield Istiod(process, grpc)


class GatewayProxy(Process):
    """Envoy as the proxy of a gateway's pod with these labels, which istiod tells everything."""

    def __init__(
        self, directory: Path, name: str, envoy: Path, control: Istiod, namespace: str, labels: Mapping[str, str]
    ) -> None:
        self._admin_file = directory / f"{name}.admin"
        config = directory / f"{name}.yaml"
        config.write_text(yaml.safe_dump(_bootstrap(name, control.port, namespace, labels)), "utf-8")
        command: list[str | Path] = [envoy, *ARGUMENTS, "-c", config, "--admin-address-path", self._admin_file]
        environment = {"PATH": os.environ.get("PATH", os.defpath)}
        super().__init__(name, command, log_path=directory / f"{name}.log", env=environment)

    def ready(self) -> None:
        """Return when istiod has told it everything."""
        self.wait_until(lambda: is_ready(admin_port_from(self._admin_file)), what="ready", timeout_s=_SECONDS)

    def config_dump(self) -> Any:
        """Return what Envoy has been told, with endpoints; raises OSError while it does not answer."""
        port = admin_port_from(self._admin_file)
        if port is None:
            raise FileNotFoundError("Envoy has not said yet where its admin pages are")
        return client.send(port, "GET", "/config_dump?include_eds").json()


def _bootstrap(name: str, xds_port: int, namespace: str, labels: Mapping[str, str]) -> dict[str, Any]:
    ads = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": xds_port}}}
    http2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "node": {
            "id": f"router~127.0.0.1~{name}.{namespace}~{namespace}.svc.cluster.local",
            "cluster": f"{name}.{namespace}",
            "metadata": {
                "CLUSTER_ID": "Kubernetes",
                "NAMESPACE": namespace,
                # Not the pod that it says it is: istiod has to go by what stands here.
                "LABELS": {**labels, "istio.io/test-vm": "true"},
            },
        },
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
            "lds_config": ads,
            "cds_config": ads,
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "xds-grpc",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {
                        http2: {
                            "@type": f"type.googleapis.com/{http2}",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "xds-grpc",
                        "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
                    },
                }
            ]
        },
    }
