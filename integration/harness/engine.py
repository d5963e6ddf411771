"""Starts `policy-engine run` as a process and reads its admin pages, however it was started."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from integration.harness import client
from integration.harness.processes import STOP_TIMEOUT_S, Process, free_port, python_program

Settings = dict[str, Any]

_WITH_HOSTS = ("unshare", "--map-root-user", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"')
"""Runs a command that sees another /etc/hosts; part of util-linux."""


def settings(*, listen: str, admin_port: int, chains: str, **others: Any) -> Settings:
    """Return settings for one worker; `others` are further top-level keys."""
    return {
        "listen": [listen],
        "workers": 1,
        "chains": chains,
        "admin": {"listen": f"127.0.0.1:{admin_port}"},
        "health": {"listen": "off"},
        # Tests write files whole before an engine starts; how long half-written ones rest is for their own test.
        "chain_files": {"settle": "200ms"},
        **others,
    }


_SEALED = (
    "unshare",
    "--map-root-user",
    "--mount",
    "sh",
    "-c",
    # A mount keeps what is locked in it (mount_namespaces(7)), so that its flags have to be named again. One that
    # another was mounted over cannot be reached, by nobody.
    "while read -r _ place _ options _; do flags=$(echo $options | tr , '\\n' | grep -xE 'no(suid|dev|exec)|.*atime'); "
    'case $place in /proc*|/sys*|/dev) continue ;; esac; mountpoint -q "$place" || continue; '
    'mount -o remount,bind,ro$(printf ,%s $flags) "$place" || exit 1; '
    "done < /proc/self/mounts; "
    'exec unshare --user --map-user=65532 --map-group=65532 env -u HOME -u TMPDIR -u USER "$@"',
    "sealed",
)
"""Runs a command as the image does: no file can be written, the user has a number alone and no home."""


class EngineAdmin:
    """The admin pages of a running engine."""

    def __init__(self, port: int) -> None:
        self.port = port

    def is_ready(self) -> bool:
        """Tell whether requests are let through."""
        return client.send(self.port, "GET", "/readyz").status == 200

    def history(self) -> Any:
        """Return the accepted and refused configurations, newest first under `events`."""
        return client.send(self.port, "GET", "/history").json()

    def metrics(self) -> str:
        """Return the metrics page."""
        return client.send(self.port, "GET", "/metrics").body.decode()

    def samples(self, name: str, metrics: str | None = None) -> Mapping[tuple[tuple[str, str], ...], float]:
        """Return the values of metric sample `name` by its sorted labels, from `metrics` or a page asked for now."""
        text = self.metrics() if metrics is None else metrics
        # Only its own lines: parsing every histogram of every route takes a second.
        text = "".join(line for line in text.splitlines(keepends=True) if line.startswith(name))
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }

    def document(self, target: str) -> Any:
        """Return another page, parsed as JSON."""
        return json.loads(client.send(self.port, "GET", target).body)


class EngineProcess(Process):
    """The engine as a process of this machine, from this interpreter's import path, files in `directory`.

    It listens at `address`: a Unix socket, or a port of 127.0.0.1 with `tcp`. With `hosts`, that file is what it finds
    in place of /etc/hosts. `policies` is a directory of them, or a registry's file. A `sealed` one can write no file,
    and has no home, as in an image. `flags` are further ones of `run`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        chains: Path,
        policies: Path,
        env: Mapping[str, str] | None = None,
        tcp: bool = False,
        hosts: Path | None = None,
        sealed: bool = False,
        flags: Sequence[str] = (),
    ) -> None:
        self.address: int | Path = free_port() if tcp else directory / "engine.sock"
        self.admin = EngineAdmin(free_port())
        config = directory / "policy-engine.yaml"
        config.write_text(
            yaml.safe_dump(
                settings(
                    listen=f"127.0.0.1:{self.address}" if tcp else f"unix:{self.address}",
                    admin_port=self.admin.port,
                    chains=str(chains),
                    policies={"registry" if policies.is_file() else "directory": str(policies)},
                ),
                sort_keys=False,
            )
        )
        command, base = python_program("policy_engine", "run", "--config", config, *flags)
        self._config, self._env = config, {**base, **(env or {})}
        if hosts is not None:
            command = [*_WITH_HOSTS, hosts, *command]
        if sealed:
            command = [*_SEALED, *command]
        super().__init__("policy-engine", command, log_path=directory / "engine.log", env=self._env)

    def ready(self) -> None:
        """Return when it is ready. Raises ProcessError when it refuses to start."""
        self.wait_until(self.admin.is_ready, what="ready")

    def start_upgrade(self, *flags: str) -> subprocess.Popen[str]:
        """Start `policy-engine upgrade` with the same settings; the new engine writes to the same log."""
        command, _ = python_program("policy_engine", "upgrade", "--config", self._config, *flags)
        return subprocess.Popen(
            [*map(str, command)], env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def upgrade(self, *flags: str, timeout_s: float = 120.0) -> tuple[int, str]:
        """Run it; return its exit status and what it printed."""
        with self.start_upgrade(*flags) as command:
            output, _ = command.communicate(timeout=timeout_s)
            return command.returncode, output

    @property
    def successors(self) -> list[int]:
        """The process ids of engines that got the sockets of this one, or of one that took over from it, in order."""
        return [int(one) for one in re.findall(r"\(pid (\d+)\) gets the sockets", self.log())]

    def stop(self, *, sign: signal.Signals = signal.SIGTERM, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """End it and its successors, which are in process groups of their own."""
        status = super().stop(sign=sign, timeout_s=timeout_s)
        for pid in self.successors:
            end_group(pid, sign, timeout_s)
        return status


def end_group(pid: int, sign: signal.Signals, timeout_s: float) -> None:
    """End process `pid` that leads a group, and is no child of ours, by `sign`; after `timeout_s` all of the group."""
    deadline = time.monotonic() + timeout_s
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sign)
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
