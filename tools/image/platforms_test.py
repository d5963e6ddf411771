"""Every compiled file of //:image, interpreter included, is for the platform that the index says; the rest is shared.

On demand: `./bazelw test //tools/image:platforms_test`.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

from policy_builder.discover.platform import Platform
from policy_builder.package.oci_layout import blob_path
from policy_builder.validate.machine import elf_machine

INDEX = Path("image.index")


def read(digest: str) -> dict[str, Any]:
    return dict(json.loads(blob_path(INDEX, digest).read_bytes()))


def images() -> dict[str, dict[str, Any]]:
    """Return the manifest of each platform's image."""
    (top,) = json.loads((INDEX / "index.json").read_bytes())["manifests"]
    return {one["platform"]["architecture"]: read(one["digest"]) for one in read(top["digest"])["manifests"]}


def test_compiled_files_are_for_the_platform() -> None:
    for architecture, manifest in images().items():
        machines: dict[str, str] = {}
        for layer in manifest["layers"]:
            with tarfile.open(blob_path(INDEX, layer["digest"])) as tar:
                for member in tar:
                    stream = tar.extractfile(member) if member.isreg() else None
                    machine = elf_machine(stream.read(20)) if stream else None
                    if machine is not None:
                        machines[member.name] = machine
        assert "usr/bin/python3.13" in machines
        assert len([name for name in machines if "dist-packages" in name]) > 20
        assert set(machines.values()) == {Platform(architecture).machine}


def test_layers_without_compiled_files_are_the_same_on_every_platform() -> None:
    amd64, arm64 = (images()[architecture]["layers"] for architecture in ("amd64", "arm64"))
    shared = {layer["digest"] for layer in amd64} & {layer["digest"] for layer in arm64}
    assert len(amd64) == len(arm64)
    assert len(shared) == len(amd64) - 4  # base, requirements, those of the policies, and the documents
