"""Runs Envoy with what `policy-engine envoy-config` writes, as an operator in file mode would use it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from integration.harness.envoy import ARGUMENTS, Envoy, admin_port_from, is_ready
from integration.harness.envoy_binary import envoy_binary
from integration.harness.processes import Process
from policy_engine.cli import main


@contextmanager
def envoy_for(directory: Path, engines: Sequence[int | Path], upstream: int, policies: Path) -> Iterator[Envoy]:
    """Run it for engines at these Unix sockets and ports, with the chains of `chains.yaml` in `directory`."""
    config, admin = directory / "envoy.yaml", directory / "admin"
    written_for = ["--chains", str(directory / "chains.yaml"), "--policies-directory", str(policies)]
    where = [
        part for one in engines for part in ("--engine", f"unix:{one}" if isinstance(one, Path) else f"127.0.0.1:{one}")
    ]
    where += ["--upstream", f"127.0.0.1:{upstream}", "--ingress", "127.0.0.1:0", "--envoy-admin", "127.0.0.1:0"]
    assert main(["envoy-config", "--bootstrap", "--output", str(config), *where, *written_for]) == 0
    argv: list[str | Path] = [envoy_binary(), *ARGUMENTS, "-c", config, "--admin-address-path", admin]
    env = {"PATH": os.environ.get("PATH", os.defpath)}
    with Process("envoy", argv, log_path=directory / "envoy.log", env=env) as proxy:
        proxy.wait_until(lambda: is_ready(admin_port_from(admin)), what="ready")
        port = admin_port_from(admin)
        assert port is not None
        yield Envoy(port)
