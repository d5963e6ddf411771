"""Makes the current directory the Bazel repository of a locked wheel: `fetch_wheel.py HUB "name==1 --hash=…" MACHINE`.

MACHINE is x86_64 or aarch64; what is not this machine's own gets a directory of its own.

The wheel comes from $BAZELW_WHEELS when an earlier run of any checkout left it there, else from PyPI through pip, which
checks the hashes. It runs before any dependency exists, so it uses the standard library, pip's copy of `packaging`, and
of the builder what needs no more.
"""

from __future__ import annotations

import email
import fcntl
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

# `bazelw` lays this module of the builder beside: what it may not unpack is judged in one place.
from policy_builder.discover.wheel_archive import WheelError, unpack_wheel

ATTEMPTS = 5
FINAL = ("No matching distribution found", "DO NOT MATCH THE HASHES")
"""What pip says when asking once more is of no use."""

GLIBC_MINOR = 41  # of the image's glibc 2.41

BUILD = """\
load("@rules_python//python:py_library.bzl", "py_library")

package(default_visibility = ["//visibility:public"])

py_library(
    name = "pkg",
    srcs = glob(["site-packages/**/*.py"], allow_empty = True),
    data = glob(["site-packages/**"], exclude = ["**/*.py", "**/* *"], allow_empty = True),
    imports = ["site-packages"],
    deps = {deps},
)

filegroup(
    name = "whl",
    srcs = {wheels},
)
"""


def normalized(name: str) -> str:
    """Return the distribution's name as it is written in labels."""
    return re.sub(r"[-_.]+", "_", name).lower()


def matching(directory: Path, name: str, hashes: set[str]) -> Path | None:
    """Return the wheel of `name` in `directory` whose content has one of `hashes`."""
    for wheel in sorted(directory.glob("*.whl")):
        distribution = wheel.name.split("-", 1)[0]
        if normalized(distribution) == name and hashlib.sha256(wheel.read_bytes()).hexdigest() in hashes:
            return wheel
    return None


def for_machine(machine: str) -> list[str]:
    """Return pip's options that choose wheels for `machine`, which is not this one (PEP 600)."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC_MINOR, 16, -1)]
    tags += [f"manylinux2014_{machine}", f"linux_{machine}"]
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    options = ["--implementation=cp", f"--python-version={version}", f"--abi=cp{version}", "--abi=abi3", "--abi=none"]
    return options + [f"--platform={tag}" for tag in tags]


def fetch(requirement: str, store: Path, options: list[str]) -> Path:
    """Return the wheel of the locked `requirement`, downloading it into `store` with `options` unless it is there.

    Raises SystemExit with pip's output when every attempt failed.
    """
    name = normalized(re.split(r"[\[=]", requirement, maxsplit=1)[0])
    hashes = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", requirement))
    if not hashes:
        raise SystemExit(f"{requirement}: the lock has no hash for it; run tools/python/lock.sh")
    store.mkdir(parents=True, exist_ok=True)
    with (store / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another checkout may be fetching the same wheel
        if wheel := matching(store, name, hashes):
            return wheel
        with tempfile.TemporaryDirectory(dir=store) as directory:
            requirements = Path(directory, "requirements.txt")
            requirements.write_text(requirement + "\n")
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
            pip += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir", *options]
            for attempt in range(1, ATTEMPTS + 1):
                done = subprocess.run(
                    [*pip, "-d", directory, "-r", str(requirements)], text=True, capture_output=True, check=False
                )
                if done.returncode == 0:
                    break
                if any(reason in done.stderr for reason in FINAL):
                    raise SystemExit(f"no registry has this wheel:\n{done.stderr}")
                if attempt == ATTEMPTS:
                    raise SystemExit(f"pip download failed {ATTEMPTS} times:\n{done.stdout}{done.stderr}")
                time.sleep(2**attempt)
            (wheel,) = Path(directory).glob("*.whl")
            return wheel.rename(store / wheel.name)


def dependencies(metadata: email.message.Message, requirement: str, machine: str) -> list[str]:
    """Return the normalized names that the wheel needs on `machine`, with the extras that the lock names."""
    own = normalized(metadata["Name"])
    declared = [Requirement(line) for line in metadata.get_all("Requires-Dist") or []]
    extras = {""}
    if found := re.match(r"[^\[=]+\[([^\]]+)\]", requirement):
        extras |= {extra.strip() for extra in found[1].split(",")}
    names: set[str] = set()
    grown = True
    while grown:  # `name[all]` may be defined as `name[one,two]`
        grown = False
        for needed in declared:
            if needed.marker and not any(
                needed.marker.evaluate({"extra": extra, "platform_machine": machine}) for extra in extras
            ):
                continue
            names.add(normalized(needed.name))
            if normalized(needed.name) == own and not needed.extras <= extras:
                extras |= needed.extras
                grown = True
    return sorted(names - {own})


def is_needed(requirement: str, machine: str) -> bool:
    """Return whether the marker of a lock's line, if it has one, holds for this Python on `machine`."""
    marker = Requirement(requirement.partition(" --hash")[0]).marker
    return marker is None or marker.evaluate({"extra": "", "platform_machine": machine})


def main(hub: str, requirement: str, machine: str) -> None:
    """Write the repository into the current directory; it is empty for what this Python does not need."""
    if not is_needed(requirement, machine):
        Path("BUILD.bazel").write_text(BUILD.format(deps=[], wheels=[]))
        return
    store = Path(os.environ["BAZELW_WHEELS"])
    if machine == platform.machine():
        wheel = fetch(requirement, store, [])
    else:
        wheel = fetch(requirement, store / machine, for_machine(machine))
    site_packages = Path("site-packages")
    try:  # without scripts and headers: `:whl` has them for who needs one
        unpack_wheel(wheel, site_packages, executables=True)
    except WheelError as error:
        raise SystemExit(f"{wheel.name} {error}") from None
    (metadata,) = site_packages.glob("*.dist-info/METADATA")
    names = dependencies(email.message_from_bytes(metadata.read_bytes()), requirement, machine)
    Path(wheel.name).symlink_to(wheel)
    Path("BUILD.bazel").write_text(BUILD.format(deps=[f"@{hub}//{name}" for name in names], wheels=[wheel.name]))


if __name__ == "__main__":
    main(*sys.argv[1:])
