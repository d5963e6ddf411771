"""An engine with the chains of this folder, an upstream, and what the engine writes for a controller: the same for all.

Apart from the controllers because each of them is only another way of bringing Envoy to the engine.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from integration.harness import client
from integration.harness.client import Reply
from integration.harness.engine import EngineProcess
from integration.harness.upstream import Upstream
from policy_engine.cli import main

HERE = Path(__file__).parent
POLICIES = HERE.parent.parent / "policies"
HOST = "api.example.test"
JSON = (("content-type", "application/json"),)
TAKEN_S = 60.0
"""How long a controller may take for a change; far above what is normal."""

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """An engine and what stands behind it; `settings` are the engine's, by the names of environment variables."""

    directory: Path
    engine: EngineProcess
    upstream: Upstream
    chains: Path
    settings: Mapping[str, str]

    @property
    def address(self) -> str:
        """Where Envoy reaches the engine."""
        return f"127.0.0.1:{self.engine.address}"

    def written(self, target: str, *flags: str) -> list[Any]:
        """Return the manifests that `policy-engine envoy-config` writes for these chains."""
        file = self.directory / f"{target}.yaml"
        options = ["--target", target, "--engine", self.address, "--output", str(file), *flags]
        assert main([*self._command(), *options]) == 0
        return [one for one in yaml.safe_load_all(file.read_text("utf-8")) if one]

    def linted(self, dump: object) -> list[Any]:
        """Return what `policy-engine envoy-config --lint` finds in a `/config_dump?include_eds` of Envoy."""
        file = self.directory / "config_dump.json"
        file.write_text(json.dumps(dump), "utf-8")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            main([*self._command(), "--lint", str(file), "--json"])
        found: list[Any] = json.loads(out.getvalue())["diagnostics"]
        return found

    def _command(self) -> list[str]:
        settings = [f"--{name.lower().replace('_', '-')}={value}" for name, value in self.settings.items()]
        return ["envoy-config", "--chains", str(self.chains), "--policies-directory", str(POLICIES), *settings]


@contextlib.contextmanager
def attached(chains: Path, source: str) -> Iterator[Attached]:
    """Start an engine with these chains, found by `source`, the setting `route_key.source`, and an upstream."""
    # A machine that has just built a controller is slow: nothing here is about time.
    settings = {"ROUTE_KEY_SOURCE": source, "POLICY_TIMEOUT": "20s"}
    with tempfile.TemporaryDirectory(prefix="ctl-", dir="/tmp") as name, Upstream() as upstream:
        directory = Path(name)
        env = {f"POLICY_ENGINE_{key}": value for key, value in settings.items()}
        with EngineProcess(directory, chains=chains, policies=POLICIES, env=env, tcp=True) as engine:
            engine.ready()
            yield Attached(directory=directory, engine=engine, upstream=upstream, chains=chains, settings=settings)


def yaml_of(manifests: Iterable[Manifest]) -> str:
    """Return manifests as one YAML text; JSON documents, whose strings nobody takes for something else."""
    return "".join(f"---\n{json.dumps(one)}\n" for one in manifests)


def sent(port: int, method: str, target: str, **more: Any) -> Reply:
    """Send one request with the host of all routes here."""
    headers: Sequence[tuple[str, str]] = [("host", HOST), *more.pop("headers", ())]
    return client.send(port, method, target, headers=headers, **more)


def announced(port: int, target: str, length: int) -> int:
    """Announce a body of so many bytes, send none of it, and return the status of the answer."""
    fields = f"host: {HOST}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
    with socket.create_connection(("127.0.0.1", port), TAKEN_S) as connection:
        connection.sendall(f"POST {target} HTTP/1.1\r\n{fields}\r\n".encode())
        return int(connection.makefile("rb").readline().split()[1])


def eventually(holds: Callable[[], bool], what: str, log: Callable[[], str] = str) -> None:
    """Return once `holds()`, a broken connection counting as not yet; raises AssertionError with the end of a log."""
    deadline = time.monotonic() + TAKEN_S
    while True:
        with contextlib.suppress(OSError):
            if holds():
                return
        assert time.monotonic() < deadline, f"not {what} after {TAKEN_S:g} s\n{log()[-4000:]}"
        time.sleep(0.2)
