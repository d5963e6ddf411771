"""docs/use-from-your-repository.md, run: a repository that is the root module, with this one as a dependency.

On demand, since Bazel builds two images of which no action was run before (ten minutes without the registry); containers
are run by docker or, as root, by runc:

    OWN_REPOSITORY=1 python -m pytest integration/own_repository_test.py

It takes the mode that ./bazelw finds, or BAZELW_MODE. //tools/python:starlark_test and //integration/elsewhere look at what
would break it whenever anything changes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from integration.harness.containers import Container, Image, Mount
from integration.harness.engine import EngineAdmin, settings
from integration.harness.processes import free_port
from policy_builder.testregistry import PASSWORD, USER, debian_registry, log_in
from policy_builder.testtampering import tampered

CHECKOUT = Path(__file__).resolve().parents[1]
PAGE = CHECKOUT / "docs/use-from-your-repository.md"
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

CHAINS = {
    "version": "v1",
    "routes": [
        {
            "route_key": "orders",
            "policies": [
                {"name": "add-team", "version": "v1", "parameters": {"value": "edge-1"}},
                {"name": "set-header", "version": "v1", "parameters": {"request": {"set": {"x-a": "b"}}}},
            ],
        }
    ],
}

pytestmark = pytest.mark.skipif(not os.environ.get("OWN_REPOSITORY"), reason="takes minutes: OWN_REPOSITORY=1")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the repository that the page makes, after its last command."""
    directory = tmp_path_factory.mktemp("own")
    (directory / "policy-engine").symlink_to(CHECKOUT)
    work = directory / "gateway"
    work.mkdir()
    commands = directory / "bin"
    commands.mkdir()
    run = "import sys; from policy_engine.cli import main; sys.exit(main())"
    (commands / "policy-engine").write_text(f"#!/bin/sh\nexec {sys.executable} -c '{run}' \"$@\"\n")
    (commands / "policy-engine").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(CHECKOUT / "engine"),
    }
    script = "set -euo pipefail\n" + "\n".join(_BLOCK.findall(PAGE.read_text(encoding="utf-8")))
    try:
        done = subprocess.run(
            ["bash", "-c", script], cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for test in ("add-team.interface", "add-team.validate", "policy_test"):
            assert re.search(rf"//policies/add-team/v1_0_0:{re.escape(test)} .*PASSED", done.stdout + done.stderr)
        yield work
    finally:
        _bazel(work, "clean", "--expunge")  # a gigabyte of outputs for a directory that is never used again


def _bazel(directory: Path, *arguments: str) -> str:
    done = subprocess.run([CHECKOUT / "bazelw", *arguments], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _built(directory: Path, target: str) -> Path:
    """Build a target; return the only file of it."""
    _bazel(directory, "build", target)
    (file,) = _bazel(directory, "cquery", "--output=files", target).split()
    return Path(_bazel(directory, "info", "execution_root").strip(), file)


def test_the_image_is_the_one_that_this_repository_makes_of_the_same_choice(repository: Path) -> None:
    example = CHECKOUT / "examples/own-repository"
    for path in (example / "policies").rglob("*"):
        if path.is_file() and not path.name.endswith("_test.py") and "__pycache__" not in path.parts:
            assert (repository / path.relative_to(example)).read_text() == path.read_text(), path
    outside = (repository / "bazel-bin/image.oci.json.sha256").read_text().strip()
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", outside)
    assert _built(CHECKOUT, "@acme_policies//:image.digest").read_text().strip() == outside
    described = (repository / "bazel-bin/image.layers/build-info.json").read_text()
    assert _built(CHECKOUT, "@acme_policies//:image.build_info").read_text() == described
    if (
        "offline"
        in subprocess.run(
            [CHECKOUT / "bazelw", "version"], cwd=repository, capture_output=True, text=True, check=True
        ).stderr
    ):  # the registry's rules lay out configuration their own way
        assert (repository / "out/digest").read_text().strip() == outside


def test_the_image_names_the_engine_that_is_in_it_and_runs(repository: Path) -> None:
    image = Image.read(repository / "bazel-bin/image/tarball.tar")
    chains = yaml.safe_dump(CHAINS)
    with tempfile.TemporaryDirectory(prefix="it-", dir="/tmp") as name:
        configuration = Path(name) / "policy-engine"
        configuration.mkdir()
        for directory in (Path(name), configuration):
            directory.chmod(0o755)
        (configuration / "chains.yaml").write_text(chains)
        listen, admin = free_port(), EngineAdmin(free_port())
        own = settings(listen=f"127.0.0.1:{listen}", admin_port=admin.port, chains="/etc/policy-engine/chains.yaml")
        (configuration / "policy-engine.yaml").write_text(yaml.safe_dump(own))
        command = [
            "--config=/etc/policy-engine/policy-engine.yaml",
            f"--listen={own['listen'][0]}",
            "--health-listen=off",
        ]
        mounts = [Mount(configuration, "/etc/policy-engine")]
        with Container("own", image, log_path=Path(name) / "log", command=command, mounts=mounts) as engine:
            engine.wait_until(admin.is_ready, what="ready")
            information = admin.document("/build-info")
    described = json.loads((repository / "bazel-bin/image.layers/build-info.json").read_text())
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert described["engine"]["digest"] != empty
    # The engine computed its own digest when it started: images run with policies.verify: strict.
    assert [one["name"] for one in information["policies"]] == ["add-team", "jwt-validation", "set-header"]


def test_it_is_pushed_signed_verified_and_refused_after_one_byte(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    key, public = _keys(tmp_path)
    with debian_registry(tmp_path, password=True, tls=True) as registry:
        log_in(tmp_path, registry.address, f"{USER}:{PASSWORD}")
        trusted = ["--ca", str(registry.ca)]
        push = ["push", "-r", f"{registry.address}/team/gateway", *trusted, "--key", str(key)]
        image = _builder(repository, *push, "out").split()[0]
        check = [*trusted, "--key", str(public), "--reviewed", "out/registry.json"]
        assert "add-team" in (repository / "out/registry.json").read_text()
        _builder(repository, "verify", image, *check)
        if cosign := os.environ.get("COSIGN"):
            command = [cosign, "verify", "--key", str(public), "--insecure-ignore-tlog=true", image]
            subprocess.run(command, env=os.environ | {"SSL_CERT_FILE": str(registry.ca)}, check=True)
        other = tmp_path / "other"
        shutil.copytree(repository / "out", other)
        tampered(other, "app/policies/add-team/v1.0.0/policy.py", b"#")
        image = _builder(repository, *push, str(other)).split()[0]
        assert "policy add-team v1.0.0" in _builder(repository, "verify", image, *check, expected=1)


def _keys(directory: Path) -> tuple[Path, Path]:
    """Return the files of a private key and of its public one, made by cosign where there is one."""
    if cosign := os.environ.get("COSIGN"):
        subprocess.run(
            [cosign, "generate-key-pair"], cwd=directory, env=os.environ | {"COSIGN_PASSWORD": ""}, check=True
        )
        return directory / "cosign.key", directory / "cosign.pub"
    private, public = directory / "signing.key", directory / "signing.pub"
    for command in (
        ["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", str(private)],
        ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return private, public


def _builder(directory: Path, *arguments: str, expected: int = 0) -> str:
    command = [sys.executable, str(CHECKOUT / "tools/policy-builder"), *arguments]
    environment = os.environ | {"COSIGN_PASSWORD": ""}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr
