"""Talks to a started Envoy through its admin endpoint, whichever way it was started, and starts it as a process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from integration.harness import client
from integration.harness.envoy_binary import envoy_binary
from integration.harness.envoy_config import Bootstrap, bootstrap_yaml
from integration.harness.processes import Process

ARGUMENTS = ("--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning")


class Envoy:
    """A running Envoy; `port` is where it listens for requests."""

    def __init__(self, admin_port: int) -> None:
        self.admin_port = admin_port
        self.port = self._listener_port()

    @property
    def url(self) -> str:
        """Where clients send requests."""
        return f"http://127.0.0.1:{self.port}"

    def version(self) -> str:
        """Return the version it reports itself, such as `1.36.2`."""
        version: str = self._admin("/server_info")["version"].split("/")[1]
        return version

    def counter(self, name: str) -> int:
        """Return the value of one counter or gauge; 0 while Envoy has not created it."""
        stats = self._admin(f"/stats?format=json&filter=^{name}$")["stats"]
        return next((int(stat["value"]) for stat in stats if stat.get("name") == name), 0)

    def _listener_port(self) -> int:
        status = self._admin("/listeners?format=json")["listener_statuses"][0]
        port: int = status["local_address"]["socket_address"]["port_value"]
        return port

    def _admin(self, target: str) -> Any:
        return client.send(self.admin_port, "GET", target).json()


def admin_port_from(path: Path) -> int | None:
    """Return the port in the file that `--admin-address-path` made, or None while it is not there."""
    if not path.is_file():
        return None
    _, _, port = path.read_text().rpartition(":")
    return int(port) if port.isdecimal() else None


def is_ready(admin_port: int | None) -> bool:
    """Tell whether the Envoy behind `admin_port` takes requests."""
    return admin_port is not None and client.send(admin_port, "GET", "/ready").status == 200


def write_bootstrap(bootstrap: Bootstrap, directory: Path) -> Path:
    """Write the bootstrap into `directory` and return its path."""
    path = directory / "envoy.yaml"
    path.write_text(bootstrap_yaml(bootstrap))
    return path


class EnvoyProcess(Process):
    """Envoy as a process of this machine, files in `directory`; `ready` waits and returns the means to talk to it.

    `bootstrap` may be the path of one that something else wrote.
    """

    def __init__(self, bootstrap: Bootstrap | Path, directory: Path, *extra_arguments: str) -> None:
        self._admin_file = directory / "envoy.admin"
        config = bootstrap if isinstance(bootstrap, Path) else write_bootstrap(bootstrap, directory)
        own: list[str | Path] = ["-c", config, "--admin-address-path", self._admin_file]
        argv: list[str | Path] = [envoy_binary(), *ARGUMENTS, *own, *extra_arguments]
        super().__init__("envoy", argv, log_path=directory / "envoy.log", env=_environment())

    def ready(self) -> Envoy:
        """Return when it takes requests. Raises ProcessError when it refuses its configuration."""
        self.wait_until(lambda: is_ready(admin_port_from(self._admin_file)), what="ready")
        port = admin_port_from(self._admin_file)
        assert port is not None
        return Envoy(port)


def _environment() -> dict[str, str]:
    # Envoy needs nothing of ours; a proxy variable or a secret has no business there.
    return {"PATH": os.environ.get("PATH", os.defpath)}


def validates(bootstrap_path: Path, directory: Path) -> tuple[bool, str]:
    """Run `envoy --mode validate` on a file; return whether it accepts and what it says."""
    argv: list[str | Path] = [envoy_binary(), "--mode", "validate", "--use-dynamic-base-id", "-c", bootstrap_path]
    with Process("envoy validate", argv, log_path=directory / "validate.log", env=_environment()) as process:
        status = process.wait(timeout_s=60)
        return status == 0, process.log()
