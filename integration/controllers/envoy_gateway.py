"""Runs Envoy Gateway on this machine: resources from files, and the Envoy that it starts and configures itself."""

from __future__ import annotations

import copy
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from integration.controllers.attached import Manifest, yaml_of
from integration.harness import client
from integration.harness.envoy import admin_port_from
from integration.harness.processes import Process
from tools.on_demand.go_programs import go_program

CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"
_HEALTH_PORT = 8081
"""Envoy Gateway's ports cannot be chosen: this, 18000 to 18002, 19000 and 19001. One runs on a machine at a time."""


class EnvoyGateway(Process):
    """The controller with the provider for files and hosts, all of its files below `directory`."""

    def __init__(self, directory: Path, envoy: Path, version: str) -> None:
        self._resources = directory / "resources"
        self._state = directory / "eg"
        program = go_program("envoy-gateway")
        homes = {name: str(self._state / name) for name in ("configHome", "dataHome", "stateHome", "runtimeDir")}
        # Where its library for starting Envoy looks before it would fetch one.
        binary = Path(homes["dataHome"]) / "envoy-versions" / version / "bin" / "envoy"
        binary.parent.mkdir(parents=True)
        binary.symlink_to(envoy)
        self._resources.mkdir()
        self._version = version
        certificates: list[str | Path] = [program, "certgen", "--local", "--config-home", homes["configHome"]]
        subprocess.run(certificates, check=True, capture_output=True, timeout=60)
        config = directory / "envoy-gateway.yaml"
        config.write_text(yaml.safe_dump(_config(self._resources, homes)), "utf-8")
        command: list[str | Path] = [program, "server", "--config-path", config]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._state)}
        super().__init__("envoy-gateway", command, log_path=directory / "envoy-gateway.log", env=environment)

    def ready(self) -> None:
        """Return when the controller has read its files."""
        self.wait_until(lambda: client.send(_HEALTH_PORT, "GET", "/readyz").status == 200, what="ready")

    def apply(self, name: str, manifests: Iterable[Manifest]) -> None:
        """Write manifests, in place of those of this name before, as an operator's tool does: whole at once."""
        file = self._resources / f"{name}.yaml"
        new = file.with_name(f".{name}~")
        new.write_text(yaml_of(manifests), "utf-8")
        new.replace(file)

    def config_dump(self) -> Any:
        """Return what Envoy has been told, with endpoints; raises OSError while no Envoy answers."""
        return client.send(self.admin_port(), "GET", "/config_dump?include_eds").json()

    def admin_port(self) -> int:
        """Return the port of Envoy's admin pages; raises OSError while there is none."""
        files = sorted(self._state.rglob("admin-address.txt"))
        port = admin_port_from(files[-1]) if files else None
        if port is None:
            raise FileNotFoundError("Envoy has not said yet where its admin pages are")
        return port

    def proxy(self) -> Manifest:
        """Return the EnvoyProxy that names this version of Envoy."""
        return {
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "EnvoyProxy",
            "metadata": {"name": "host", "namespace": "default"},
            "spec": {"provider": {"type": "Host", "host": {"envoyVersion": self._version}}},
        }


def with_backends_of_their_own(manifests: Sequence[Any]) -> list[Manifest]:
    """Return manifests whose policies name a Backend of their own namespace.

    Without Kubernetes, Envoy Gateway 1.9.1 forgets of what kind a policy is, so that no ReferenceGrant is for it, and
    its routes answer 500.
    """
    (backend,) = (one for one in manifests if one["kind"] == "Backend")
    found = copy.deepcopy(list(manifests))
    namespaces = set()
    for one in found:
        for processor in one["spec"].get("extProc", ()):
            for ref in processor["backendRefs"]:
                if ref.pop("namespace", None) is not None:
                    namespaces.add(one["metadata"]["namespace"])
    copies = ({**backend, "metadata": {**backend["metadata"], "namespace": name}} for name in sorted(namespaces))
    return [*found, *copies]


def _config(resources: Path, homes: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyGateway",
        "gateway": {"controllerName": CONTROLLER},
        "provider": {
            "type": "Custom",
            "custom": {
                "resource": {"type": "File", "file": {"paths": [str(resources)]}},
                "infrastructure": {"type": "Host", "host": homes},
            },
        },
        "logging": {"level": {"default": "info"}},
        # What the pages of ours say has to be allowed.
        "extensionApis": {"enableBackend": True, "enableEnvoyPatchPolicy": True},
    }
