"""Images of the real policies: what one holds, and that `policy-builder` and Bazel make the same of the same inputs.

Bazel gives the wheels and Debian packages, so this build asks nobody. Where the real rules_oci and rules_python are at
work (no BAZELW_ROOT), those lay out wheels and configuration their own way; then the documents are compared that say
nothing of installed files.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from policy_builder.commands import cli
from policy_builder.discover.debian import read_lock
from policy_builder.package.bytecode import machine_architecture
from policy_builder.package.image import layer_digests
from policy_builder.package.oci_layout import blob_path

RUNFILES = Path.cwd()

MOST_UNPACKED = 100_000_000
MOST_PACKED = 35_000_000
"""Bytes of an image with one small policy: what is pulled when an engine starts somewhere new."""


@dataclass(frozen=True)
class Checkout:
    """A checkout beside everything that was downloaded for it, so that a build asks nobody."""

    root: Path

    def build(self, manifest: str, name: str) -> Path:
        """Build the image that `manifest` chooses, for this machine; return where it is."""
        file, out = self.root / f"{name}.yaml", self.root / name
        file.write_text(manifest + "wheels: [wheels]\n")
        options = ["--manifest", str(file), "--engine", str(self.root / "engine"), "--output", str(out)]
        options += ["--lock", str(self.root / "requirements_lock.txt"), "--cache", str(self.root / "cache")]
        options += ["--platform", f"linux/{machine_architecture()}"]
        options += ["--debian-lock", str(self.root / "tools/image/debian.lock.json")]
        assert cli.main(["build", *options]) == 0
        return out


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    root = tmp_path_factory.mktemp("checkout")
    for part in ("engine", "policies", "tools/image", "requirements_lock.txt"):
        source = RUNFILES / part
        (root / part).parent.mkdir(parents=True, exist_ok=True)
        # Runfiles are links; a policy's files may not be.
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, root / part)
    shutil.copyfile(RUNFILES / "LICENSE", root / "engine/LICENSE")
    for debris in (
        "added_test.py",
        "conftest.py",
        "BUILD",
        "old.pyo",
        "testdata/table.json",
        "__pycache__/x",
        ".hidden",
    ):
        (root / "engine/policy_engine" / debris).parent.mkdir(exist_ok=True)
        (root / "engine/policy_engine" / debris).write_text("# must not be in an image\n")
    (root / "wheels").mkdir()
    for wheel in RUNFILES.parent.glob("*/*.whl"):
        (root / "wheels" / wheel.name).symlink_to(wheel.resolve())
    for package in read_lock(root / "tools/image/debian.lock.json", machine_architecture()).packages:
        directory = root / "cache/debian" / package.sha256 / package.name
        directory.mkdir(parents=True)
        for kind in ("control", "data"):
            (archive,) = RUNFILES.parent.glob(f"*/{package.name}/{kind}.tar*")
            (directory / archive.name).symlink_to(archive.resolve())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        yield Checkout(root)


def test_the_image_is_the_same_with_and_without_bazel(checkout: Checkout) -> None:
    out = checkout.build((RUNFILES / "policy-manifest.yaml").read_text(), "image")

    def assert_same(name: str) -> None:
        assert (out / name).read_text() == (RUNFILES / "image.layers" / name).read_text(), name

    for document in ("registry.json", "build-info.json", "licences.txt"):
        assert_same(document)
    if "BAZELW_ROOT" in os.environ:
        assert_same("sbom.cdx.json")
        assert (out / "digest").read_text() == (RUNFILES / "image.oci.json.sha256").read_text()


def test_an_image_with_set_header_alone_has_what_the_engine_needs_and_no_more(checkout: Checkout) -> None:
    out = checkout.build("version: v1\npolicies:\n  - { name: set-header, version: v1.0.0 }\n", "set-header")
    info = json.loads((out / "build-info.json").read_text())
    assert [one["name"] for one in info["policies"]] == ["set-header"]
    assert {tuple(one["required_by"]) for one in info["dependencies"]} == {("engine",)}
    site, policies = "usr/local/lib/python3.13/dist-packages/", "app/policies/"
    packages, directories = set(), set()
    unpacked = packed = 0
    for digest in layer_digests(out / "oci"):
        packed += blob_path(out / "oci", digest).stat().st_size
        with tarfile.open(blob_path(out / "oci", digest)) as tar:
            for member in tar:
                unpacked += member.size
                if member.name.startswith(site):
                    packages.add(member.name.removeprefix(site).partition("/")[0])
                elif member.isdir() and member.name.startswith(policies):
                    directories.add(member.name.removeprefix(policies).partition("/")[0])
    assert {"policy_engine", "h11", "google"} <= packages
    assert not packages & {"jwt", "cryptography", "cffi", "redis", "limits", "policy_jwt"}
    assert directories == {"set-header"}
    assert unpacked <= MOST_UNPACKED, f"{unpacked / 1e6:.1f} MB"
    assert packed <= MOST_PACKED, f"{packed / 1e6:.1f} MB"
