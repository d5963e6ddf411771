"""Starts the ext_proc servers that are measured, each as a program of its own on loopback."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path

import yaml

from benchmarks.peers.cpp_build import cpp_server
from benchmarks.scenarios.chains import Chain
from integration.harness.chain_file import Document, chain, chains
from integration.harness.engine import EngineAdmin, settings
from integration.harness.processes import Process, free_port, python_program
from policy_engine.worker.policies.integrity import directory_digest
from policy_engine.worker.policies.loader import SHARED
from policy_engine.worker.policies.registry import MANIFEST_FILE

_HERE = Path(__file__).parent.parent
_POLICIES = (_HERE.parent / "policies", _HERE / "policies")

Address = int | Path
"""A port of 127.0.0.1, or the path of a Unix socket."""


class Peer(Enum):
    """A server without policies to compare with."""

    GRPC_AIO = "grpc.aio"
    GRPC_THREADS = "grpc threads"
    CPP = "C++"
    CONSTANT = "constant answers"


_MODULES = {Peer.GRPC_AIO: "aio_server", Peer.GRPC_THREADS: "thread_server", Peer.CONSTANT: "constant_server"}


class PeerServer(Process):
    """A peer; it prints the port it listens on."""

    def __init__(self, peer: Peer, directory: Path) -> None:
        env: Mapping[str, str] | None = None
        if peer is Peer.CPP:
            command: list[str | Path] = [cpp_server()]
        else:
            command, env = python_program(f"benchmarks.peers.{_MODULES[peer]}")
        super().__init__(peer.value, command, log_path=directory / "server.log", env=env)

    def ready(self) -> Sequence[Address]:
        """Return where it listens, once it does."""
        self.wait_until(lambda: self.log().endswith("\n"), what="listening")
        return [int(self.log().splitlines()[-1])]


class EngineServer(Process):
    """`policy-engine run` on one port for all workers, or with a Unix socket for each of them (docs/operator.md).

    `bytecode` is a directory for compiled modules that several may use, one after the other.
    """

    def __init__(
        self,
        directory: Path,
        routes: Mapping[str, Chain],
        *,
        transport: str = "native",
        workers: int = 1,
        socket_each: bool = False,
        bytecode: Path | None = None,
    ) -> None:
        self.admin = EngineAdmin(free_port())
        if not socket_each:
            port = free_port()
            self._addresses: Sequence[Address] = [port]
            listen = f"127.0.0.1:{port}"
        else:
            self._addresses = [directory / f"worker-{number}.sock" for number in range(workers)]
            listen = f"unix:{directory}/worker-{{worker}}.sock"
        policies = _policies(directory)
        document = chains(*(chain(key, *entries) for key, entries in routes.items()))
        (directory / "chains.yaml").write_text(json.dumps(document, indent=1))  # which is YAML too, without aliases
        configuration = settings(
            listen=listen,
            admin_port=self.admin.port,
            chains=str(directory / "chains.yaml"),
            policies={"registry": str(policies / "registry.json")},
            transport=transport,
        )
        config = directory / "policy-engine.yaml"
        config.write_text(yaml.safe_dump({**configuration, "workers": workers}, sort_keys=False))
        command, env = python_program("policy_engine", "run", "--config", config)
        # Images and installed wheels have bytecode, to start from; Bazel's trees have none. Empty is unset.
        env |= {"PYTHONPYCACHEPREFIX": str(bytecode or directory / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
        env["PYTHONPATH"] += f"{os.pathsep}{policies / SHARED}"
        super().__init__("policy-engine", command, log_path=directory / "engine.log", env=env)

    def ready(self) -> Sequence[Address]:
        """Return where it listens, once a configuration is active."""
        self.wait_until(self.admin.is_ready, what="ready")
        return self._addresses


def _policies(directory: Path) -> Path:
    """Make one tree of the product's policies and those made for benchmarks, with a registry as images have one."""
    tree = directory / "policies"
    tree.mkdir()
    for source in _POLICIES:
        for entry in source.iterdir():
            if entry.is_dir():
                (tree / entry.name).symlink_to(entry.resolve())
    listed = [_entry(manifest) for manifest in sorted(tree.glob(f"*/*/{MANIFEST_FILE}"))]
    (tree / "registry.json").write_text(json.dumps(listed))
    return tree


def _entry(manifest: Path) -> Document:
    written = yaml.safe_load(manifest.read_text())
    named = {key: written[key] for key in ("name", "version", "entrypoint")}
    return {**named, "directory": str(manifest.parent), "digest": directory_digest(manifest.parent)}
