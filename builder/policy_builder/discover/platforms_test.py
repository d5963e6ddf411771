"""Images for several platforms: each gets its own wheels and packages, and none with another's code is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policy_builder.discover.debian import DebianError, read_lock
from policy_builder.discover.platform import Platform
from policy_builder.package.oci_layout import blob_path
from policy_builder.testworld import CODE, World, elf, manifest_of, names

ARM = Platform("arm64")
X86_TAG = "cp313-cp313-manylinux_2_28_x86_64"
ARM_TAG = "cp313-cp313-manylinux_2_28_aarch64"


def native(world: World, tag: str, machine: int) -> None:
    files = {"native/__init__.py": "", "native/code.so": elf(machine)}
    world.locked("native", "1.0", files=files, tag=tag)


def test_an_image_for_arm_holds_the_wheels_for_arm(world: World, tmp_path: Path) -> None:
    files = {"native/__init__.py": ""}
    one = world.locked("native", "1.0", files={**files, "native/x86.so": elf()}, tag=X86_TAG)
    text = world.lock.read_text()
    two = world.locked("native", "1.0", files={**files, "native/arm.so": elf(183)}, tag=ARM_TAG)
    # As a lock is: one line for a version, with the hashes of all its wheels.
    arm_hash = world.lock.read_text()[len(text) :].partition("--hash=")[2].strip()
    world.lock.write_text(f"{text.rstrip()} --hash={arm_hash}\n")
    assert one != two
    world.policy("limit", requirements="native==1.0\n", code="import native\n" + CODE)
    for platform, present in ((Platform(), "x86.so"), (ARM, "arm.so")):
        out = tmp_path / platform.architecture
        world.build(out, platform)
        found = {name.rpartition("/")[2] for name in names(out / "oci") if "/native/" in name and name.endswith(".so")}
        assert found == {present}
        config = json.loads(blob_path(out / "oci", manifest_of(out / "oci")["config"]["digest"]).read_bytes())
        assert config["architecture"] == platform.architecture


def test_packages_without_a_wheel_for_the_platform_are_named_all(world: World) -> None:
    native(world, X86_TAG, 62)
    world.locked("other", "2.0", files={"other/__init__.py": "", "other/code.so": elf()}, tag=X86_TAG)
    code = "import native\nimport other\n" + CODE
    world.policy("limit", requirements="native==1.0\nother==2.0\n", code=code)
    report = world.report(ARM)
    assert "no registry has a wheel of native==1.0 for linux/arm64 and Python 3.13" in report
    assert "no registry has a wheel of other==2.0 for linux/arm64 and Python 3.13" in report


def test_a_wheel_that_holds_another_machines_code_is_refused(world: World) -> None:
    native(world, "py3-none-any", 183)
    world.policy("limit", requirements="native==1.0\n", code="import native\n" + CODE)
    assert "native 1.0 was chosen for another platform: native/code.so is compiled for aarch64" in world.report()
    assert world.validate(ARM)[0] is not None


def test_a_lock_without_the_architecture_says_which_it_has(world: World) -> None:
    with pytest.raises(DebianError, match=r"no Debian packages for riscv64 \(available: amd64, arm64\)"):
        read_lock(world.debian, "riscv64")


def test_a_package_of_another_architecture_is_refused(world: World) -> None:
    world.debian.write_text(world.debian.read_text().replace("libone_1.0_all", "libone_1.0_arm64"))
    with pytest.raises(DebianError, match=r"libone for amd64 is libone_1\.0_arm64\.deb"):
        read_lock(world.debian, "amd64")
    assert read_lock(world.debian, "arm64").packages[0].architecture == "arm64"
