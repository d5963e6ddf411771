"""The Python that images run, unpacked on the machine that builds, to compile their bytecode.

A separate module because `bytecode` is used by Bazel alone as well, which unpacks the packages itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from policy_builder.discover.debian import data_archives, read_lock
from policy_builder.discover.made_once import made_once
from policy_builder.package.bytecode import machine_architecture, unpack
from policy_builder.recipe import PYTHON_PACKAGES


def compiling_python(path: Path, cache: Path) -> Path:
    """Return the directory with the Python of images, for the machine that builds, as `bytecode.Interpreter` takes it.

    Raises DebianError and BytecodeError.
    """
    lock = read_lock(path, machine_architecture())
    packages = tuple(package for package in lock.packages if package.name in PYTHON_PACKAGES)
    archives = data_archives(replace(lock, packages=packages), cache)
    content = hashlib.sha256(" ".join(package.sha256 for package in packages).encode()).hexdigest()
    return made_once(cache / "python" / content, lambda directory: unpack(archives.values(), directory))
