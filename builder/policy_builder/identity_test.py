"""`policy-builder` and Bazel make the same image of the same inputs: //:image is built both ways.

Bazel gives the wheels and Debian packages, so this build asks nobody. Where the real rules_oci and rules_python are at
work (no BAZELW_ROOT), those lay out wheels and configuration their own way; then the documents are compared that say
nothing of installed files.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from policy_builder import cli
from policy_builder.bytecode import machine_architecture
from policy_builder.debian import read_lock


def test_the_image_is_the_same_with_and_without_bazel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runfiles = Path.cwd()
    workspace = tmp_path / "workspace"
    for part in ("engine", "policies", "tools/image", "requirements_lock.txt"):
        source = runfiles / part
        (workspace / part).parent.mkdir(parents=True, exist_ok=True)
        # Runfiles are links; a policy's files may not be.
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, workspace / part)
    (workspace / "wheels").mkdir()
    for wheel in runfiles.parent.glob("*/*.whl"):
        (workspace / "wheels" / wheel.name).symlink_to(wheel.resolve())
    manifest = (runfiles / "policy-manifest.yaml").read_text()
    (workspace / "policy-manifest.yaml").write_text(manifest + "wheels: [wheels]\n")
    for package in read_lock(runfiles / "tools/image/debian.lock.json", machine_architecture()).packages:
        (archive,) = runfiles.parent.glob(f"*/{package.name}/data.tar*")
        directory = tmp_path / "cache/debian" / package.sha256 / package.name
        directory.mkdir(parents=True)
        (directory / archive.name).symlink_to(archive.resolve())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    options = ["--manifest", str(workspace / "policy-manifest.yaml"), "--engine", str(workspace / "engine")]
    options += ["--lock", str(workspace / "requirements_lock.txt"), "--cache", str(tmp_path / "cache")]
    options += ["--platform", f"linux/{machine_architecture()}"]
    options += ["--debian-lock", str(workspace / "tools/image/debian.lock.json")]
    assert cli.main(["build", *options, "--output", str(tmp_path / "out")]) == 0

    def assert_same(name: str) -> None:
        assert (tmp_path / "out" / name).read_text() == (runfiles / "image.layers" / name).read_text(), name

    for document in ("registry.json", "build-info.json", "licences.txt"):
        assert_same(document)
    if "BAZELW_ROOT" in os.environ:
        assert_same("sbom.cdx.json")
        assert (tmp_path / "out/digest").read_text() == (runfiles / "image.oci.json.sha256").read_text()
