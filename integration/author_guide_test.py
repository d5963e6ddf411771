"""docs/author.md, run: every `sh` block in order, then a request through Envoy and the image that the guide made."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from integration.harness.client import send
from integration.harness.containers import Container, Image, Mount
from integration.harness.engine import EngineAdmin, settings
from integration.harness.envoy import EnvoyProcess
from integration.harness.envoy_config import Bootstrap, Route
from integration.harness.processes import free_port
from integration.harness.upstream import Upstream
from policy_builder.package.bytecode import machine_architecture

CHECKOUT = Path(__file__).parent.parent
GUIDE = CHECKOUT / "docs/author.md"
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMANDS = {
    "policy-engine": "policy_engine.cli",
    "policy-validator": "policy_builder.commands.validator_tool",
    "schema-checker": "policy_builder.commands.schema_tool",
}


def test_the_guide_leads_to_a_policy_behind_envoy(tmp_path: Path) -> None:
    script = "set -euo pipefail\n" + "\n".join(_BLOCK.findall(GUIDE.read_text(encoding="utf-8")))
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        ["bash", "-c", script], cwd=work, env=_environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert '"add-tenant"' in done.stdout
    assert (work / "policies/add-tenant/v1_1_0/policy.yaml").is_file()
    with Upstream() as upstream, _engine(Image.read(work / "out/image.tar"), work / "chains.yaml") as port:
        bootstrap = Bootstrap(routes=[Route(prefix="/", name="orders")], engine=port, upstream_port=upstream.port)
        with (
            tempfile.TemporaryDirectory(prefix="it-", dir="/tmp") as name,
            EnvoyProcess(bootstrap, Path(name)) as proxy,
        ):
            reply = send(proxy.ready().port, "GET", "/orders")
            assert reply.status == 200
            assert upstream.last().values("x-add-tenant") == ["acme"]


@contextmanager
def _engine(image: Image, chains: Path) -> Iterator[int]:
    with tempfile.TemporaryDirectory(prefix="it-", dir="/tmp") as name:
        configuration = Path(name) / "policy-engine"
        configuration.mkdir()
        for directory in (Path(name), configuration):
            directory.chmod(0o755)
        (configuration / "chains.yaml").write_bytes(chains.read_bytes())
        listen, admin = free_port(), EngineAdmin(free_port())
        own = settings(listen=f"127.0.0.1:{listen}", admin_port=admin.port, chains="/etc/policy-engine/chains.yaml")
        (configuration / "policy-engine.yaml").write_text(yaml.safe_dump(own))
        command = [
            "--config=/etc/policy-engine/policy-engine.yaml",
            f"--listen={own['listen'][0]}",
            "--health-listen=off",
        ]
        mounts = [Mount(configuration, "/etc/policy-engine")]
        log = Path(name) / "engine.log"
        with Container("author", image, log_path=log, command=command, mounts=mounts) as engine:
            engine.wait_until(admin.is_ready, what="ready")
            yield listen


def _environment(directory: Path) -> dict[str, str]:
    """Return an environment in which the guide's commands are found, and downloads come from what Bazel fetched."""
    commands = directory / "bin"
    commands.mkdir()
    for name, module in {**_COMMANDS, "python": ""}.items():
        run = f'-c "import sys; from {module} import main; sys.exit(main())"' if module else ""
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {run} "$@"\n')
        (commands / name).chmod(0o755)
    builder = directory / "checkout/tools"
    builder.mkdir(parents=True)
    (builder / "policy-builder").write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; from policy_builder.commands.cli import main; sys.exit(main())" "$@"\n'
    )
    (builder / "policy-builder").chmod(0o755)
    cache = directory / "cache/policy-builder"
    _fill(cache)
    return {
        **os.environ,
        "BUILD_WORKSPACE_DIRECTORY": str(CHECKOUT),
        "CHECKOUT": str(directory / "checkout"),
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(str(Path(one).absolute()) for one in sys.path),
        "PYTEST_ADDOPTS": "-p no:cacheprovider --rootdir=.",
        "XDG_CACHE_HOME": str(cache.parent),
    }


def _fill(cache: Path) -> None:
    """Put the wheels and Debian packages that Bazel fetched where the builder looks; without Bazel it downloads them."""
    repositories = CHECKOUT.parent
    (cache / "wheels").mkdir(parents=True)
    for wheel in repositories.glob("*/*.whl"):
        (cache / "wheels" / wheel.name).symlink_to(wheel.resolve())
    lock = yaml.safe_load((CHECKOUT / "tools/image/debian.lock.json").read_text())
    for name, package in lock["packages"][machine_architecture()].items():
        for archive in repositories.glob(f"*/{name}/data.tar*"):
            target = cache / "debian" / package["sha256"] / name
            target.mkdir(parents=True)
            (target / archive.name).symlink_to(archive.resolve())
