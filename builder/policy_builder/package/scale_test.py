"""Many policies at once: 60 versions are built into one image, and one engine loads them all (R-14, R-45)."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

import pytest

from policy_builder.package.image import layer_digests
from policy_builder.package.oci_layout import blob_path
from policy_builder.testworld import CODE, World
from policy_engine.worker.policies.loader import load_registry_file


def test_sixty_versions_of_twenty_policies_load_in_one_engine(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        world.locked(f"needed-{number}", "1.0")
        for version in ("v1.0.0", "v1.1.0", "v2.0.0"):
            code = f"import needed_{number}\n{CODE}    version = {version!r}\n"
            world.policy(f"policy-{number}", version, code=code, requirements=f"needed-{number}==1.0\n")
    built = world.build(tmp_path / "out")
    assert len(built.layers) == 5 + 60
    root = tmp_path / "root"
    for digest in layer_digests(tmp_path / "out/oci"):
        with tarfile.open(blob_path(tmp_path / "out/oci", digest)) as tar:
            tar.extractall(root, filter="tar")
    monkeypatch.setattr(sys, "path", [*sys.path, str(root / "usr/local/lib/python3.13/dist-packages")])
    registry, diagnostics = load_registry_file(root / "app/policies/registry.json")
    assert registry is not None, diagnostics
    assert len(registry) == 60
    assert {str(one.version) for one in registry} == {"v1.0.0", "v1.1.0", "v2.0.0"}
    assert all(one.policy_class.version == str(one.version) for one in registry)  # type: ignore[attr-defined] # as made above
