"""The command line, the directory and the status page, as an operator meets them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from policy_control_plane.cli import main
from policy_control_plane.configuration import Configuration, model_reader
from policy_control_plane.fleet import Fleet
from policy_control_plane.resources import Snapshot, snapshot_version
from policy_control_plane.rollout import Rollout
from policy_control_plane.snapshot_builder import SnapshotBuilder
from policy_control_plane.status import Overview, StatusServer
from policy_engine import __version__

GOOD = """
version: v1
listeners: [{name: http, address: 127.0.0.1, port: 8080}]
clusters: [{name: app, endpoints: ["127.0.0.1:9000"]}]
routes: [{name: a, match: {prefix: /}, cluster: app}]
"""
SAMPLE = Path(__file__).parent.parent.parent / "configs" / "xds"
PATIENCE = 20.0


def write(directory: Path, text: str) -> None:
    temporary = directory / ".new"
    temporary.write_text(text)
    temporary.replace(directory / "routes.yaml")


async def eventually(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 # conditions here are of any kind; few of them could set an event
            await asyncio.sleep(0.01)


def test_validate_says_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, GOOD)
    assert main(["validate", "--config-dir", str(tmp_path)]) == 0
    assert "valid:" in capsys.readouterr().out


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"policy-control-plane {__version__}\n"


@pytest.mark.parametrize(("options", "is_json"), [([], True), (["--log-format", "text"], False)])
def test_its_log_is_json_unless_told_otherwise(tmp_path: Path, options: list[str], is_json: bool) -> None:
    write(tmp_path, GOOD)
    command = [sys.executable, "-m", "policy_control_plane", "--config-dir", str(tmp_path)]
    addresses = ["--listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, *addresses, *options],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.terminate()
    assert line.startswith("{") is is_json, line
    if is_json:
        assert "message" in json.loads(line)


def test_the_sample_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--config-dir", str(SAMPLE)]) == 0, capsys.readouterr().out


def test_validate_lists_every_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, GOOD.replace("prefix: /", "prefix: x").replace("port: 8080", "port: 0"))
    assert main(["validate", "--config-dir", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["errors"] == 2


def test_an_empty_directory_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--config-dir", str(tmp_path)]) == 1
    assert "no chain file" in capsys.readouterr().out


def test_serve_is_the_command_when_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["--config-dir", str(tmp_path), "--listen", address, "--status-listen", "127.0.0.1:0"]) == 2
    assert f"cannot listen on {address}" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--tls-key", "k"], ["--tls-client-ca", "c"], ["--tls-certificate", "c"]])
def test_half_of_a_tls_configuration_is_refused(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config-dir", str(tmp_path), "--listen", "127.0.0.1:0", *flags]) == 2
    assert "TLS needs both" in capsys.readouterr().err


def test_bootstrap_names_the_control_plane_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bootstrap", "--server", "plane.example:18000", "--node-id", "edge-1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"node", "dynamicResources", "staticResources"}
    assert "plane.example" in json.dumps(document["staticResources"])


def test_status_of_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--address", "127.0.0.1:1"]) == 2
    assert "no status from" in capsys.readouterr().err


class Running:
    """The directory, what was offered, and the status page, without a gRPC server."""

    def __init__(self, directory: Path, settle: float) -> None:
        self.offered: list[Snapshot] = []
        self.configuration = Configuration(
            directory, model_reader(None), SnapshotBuilder(), self.offered.append, settle=settle
        )
        self.fleet = Fleet()
        self.status = StatusServer("127.0.0.1:0", Overview(self.configuration, Rollout(self.fleet), self.fleet))

    async def get(self, target: str) -> tuple[int, str]:
        def fetch() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.status.port}{target}") as reply:
                    return reply.status, reply.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        return await asyncio.to_thread(fetch)


@contextlib.asynccontextmanager
async def running(directory: Path, settle: float = 0.1) -> AsyncIterator[Running]:
    made = Running(directory, settle)
    await made.status.start()
    task = asyncio.create_task(made.configuration.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await made.status.stop()


def test_a_changed_directory_is_offered_once_and_a_broken_one_not_at_all(tmp_path: Path) -> None:
    async def run() -> None:
        write(tmp_path, GOOD)
        async with running(tmp_path) as here:
            await eventually(lambda: len(here.offered) == 1)
            write(tmp_path, GOOD.replace("app", "ap", 1))
            await eventually(lambda: here.configuration.rejection)
            status = json.loads((await here.get("/status"))[1])["configuration"]
            assert "there is no cluster 'app'" in status["rejected"]["diagnostics"][0]
            assert status["version"] == snapshot_version(here.offered[0])
            text = (await here.get("/status?format=text"))[1]
            assert "not valid and not in use" in text
            assert "there is no cluster 'app'" in text
            write(tmp_path, GOOD.replace("name: a,", "name: b,"))
            await eventually(lambda: len(here.offered) == 2)
            assert here.configuration.rejection is None

    asyncio.run(run())


TWO_ROUTES = """\
version: v1
listeners: [{name: http, address: 127.0.0.1, port: 8080}]
clusters: [{name: app, endpoints: ["127.0.0.1:9000"]}]
engine: {endpoints: ["127.0.0.1:9002"]}
routes:
- name: private
  match: {prefix: /private}
  cluster: app
  chain:
  - {name: first, version: v1}
  - {name: second, version: v1}
- {name: open, match: {prefix: /}, cluster: app}
"""


def test_a_file_that_is_written_in_place_is_not_offered_before_its_end(tmp_path: Path) -> None:
    """Every beginning of it up to a line's end, from the first chain entry on, is a valid directory."""
    file = tmp_path / "routes.yaml"
    file.write_text(TWO_ROUTES)

    async def run() -> None:
        async with running(tmp_path, settle=1.5) as here:
            await eventually(lambda: here.offered)
            whole = TWO_ROUTES.replace(":9000", ":9001")
            with file.open("w") as writing:
                for line in whole.splitlines(keepends=True):
                    writing.write(line)
                    writing.flush()
                    await asyncio.sleep(0.1)
            await eventually(lambda: len(here.offered) == 2)
            await asyncio.sleep(2.5)
            assert len(here.offered) == 2
            assert here.configuration.rejections == 0

    asyncio.run(run())


def test_ready_only_with_a_configuration(tmp_path: Path) -> None:
    async def run() -> None:
        write(tmp_path, "version: v1\nroutes: nonsense\n")
        async with running(tmp_path) as here:
            await eventually(lambda: here.configuration.rejection)
            assert (await here.get("/livez"))[0] == 200
            assert (await here.get("/readyz"))[0] == 503
            here.fleet.set_target({})
            assert (await here.get("/readyz"))[0] == 200

    asyncio.run(run())
