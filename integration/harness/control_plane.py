"""Starts the control plane, and an Envoy and engines that know nothing but its address."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from integration.harness import client
from integration.harness.engine import EngineAdmin, settings
from integration.harness.envoy import ARGUMENTS, admin_port_from, is_ready
from integration.harness.envoy_binary import envoy_binary
from integration.harness.processes import Process, accepts, free_port, python_program
from policy_control_plane.bootstrap import BootstrapOptions, bootstrap

Document = dict[str, Any]


def lasting_port() -> int:
    """Return a free TCP port that stays free while its server is away.

    Not an ephemeral one (ip_local_port_range begins at 32768): with nobody listening there, an outgoing connection may
    take it, even one to that very port, which then talks to itself.
    """
    for port in random.sample(range(20_000, 32_000), 1_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port between 20000 and 32000")


class ConfigurationDirectory:
    """The control plane's directory with one file, replaced in one step as editors and deployment tools do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def write(self, document: Document) -> None:
        """Replace the file by `document`."""
        self.write_text(json.dumps(document))  # JSON is YAML, and much faster to write

    def write_text(self, text: str) -> None:
        """Replace the file by `text`."""
        temporary = self.path / ".new"
        temporary.write_text(text)
        temporary.replace(self.path / "routes.yaml")


class ControlPlane(Process):
    """`policy-control-plane` as a process of this machine."""

    def __init__(
        self,
        directory: Path,
        configuration: Path,
        *arguments: str | Path,
        port: int | None = None,
        status_port: int | None = None,
    ) -> None:
        self.port, self.status_port = port or lasting_port(), status_port or lasting_port()
        own: list[str | Path] = ["--config-dir", configuration, "--listen", f"127.0.0.1:{self.port}"]
        own += ["--status-listen", f"127.0.0.1:{self.status_port}"]
        command, env = python_program("policy_control_plane", *own, *arguments)
        super().__init__("policy-control-plane", command, log_path=directory / "control-plane.log", env=env)

    def ready(self) -> None:
        """Return when it serves a configuration."""
        self.wait_until(lambda: client.send(self.status_port, "GET", "/readyz").status == 200, what="ready")

    def listening(self) -> None:
        """Return when it accepts connections, with or without a configuration."""
        self.wait_until(lambda: accepts(self.port), what="listening")

    def status(self) -> Document:
        """Return what `/status` says."""
        document: Document = client.send(self.status_port, "GET", "/status").json()
        return document

    def wait_for(self, holds: Callable[[Document], bool], what: str, *, timeout_s: float = 30.0) -> Document:
        """Return the status once `holds(status)`; raises AssertionError with the last status when it never does."""
        deadline = time.monotonic() + timeout_s
        while not holds(status := self.status()):
            assert time.monotonic() < deadline, f"not {what}: {json.dumps(status, indent=1)}\n{self.log()[-4000:]}"
            time.sleep(0.02)
        return status


class DiscoveringEngine(Process):
    """An engine that gets its chains from a control plane; files, with the last good chains, in `directory`."""

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        control_plane_port: int,
        policies: Path,
        delta: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.node_id = name
        self.address = directory / f"{name}.sock"
        self.admin = EngineAdmin(free_port())
        xds = {
            "server": f"127.0.0.1:{control_plane_port}",
            "node_id": name,
            "delta": delta,
            "last_known_good": str(directory / f"{name}.saved"),
        }
        document = settings(
            listen=f"unix:{self.address}",
            admin_port=self.admin.port,
            chains=str(directory / "unused"),
            configuration="xds",
            xds=xds,
            policies={"directory": str(policies)},
        )
        config = directory / f"{name}.yaml"
        config.write_text(yaml.safe_dump(document, sort_keys=False))
        command, base = python_program("policy_engine", "run", "--config", config)
        super().__init__(name, command, log_path=directory / f"{name}.log", env={**base, **(env or {})})

    def ready(self) -> None:
        """Return when it has a configuration and serves."""
        self.wait_until(self.admin.is_ready, what="ready")


class DiscoveringEnvoy(Process):
    """An Envoy bootstrapped with the control plane's address only."""

    def __init__(
        self, directory: Path, *, control_plane_port: int, node_id: str = "edge-1", delta: bool = True
    ) -> None:
        self._admin_file = directory / f"{node_id}.admin"
        config = directory / f"{node_id}.json"
        config.write_text(
            bootstrap(BootstrapOptions("127.0.0.1", control_plane_port, node_id, admin_port=0, delta=delta))
        )
        argv: list[str | Path] = [envoy_binary(), *ARGUMENTS, "-c", config, "--admin-address-path", self._admin_file]
        super().__init__(node_id, argv, log_path=directory / f"{node_id}.log", env={"PATH": "/usr/bin:/bin"})

    def ready(self) -> None:
        """Return when it takes requests."""
        self.wait_until(lambda: is_ready(admin_port_from(self._admin_file)), what="ready")

    def config_dump(self) -> Document:
        """Return Envoy's own account of its configuration."""
        port = admin_port_from(self._admin_file)
        assert port is not None
        document: Document = client.send(port, "GET", "/config_dump").json()
        return document
