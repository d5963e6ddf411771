"""The Python that images run, unpacked on the machine that builds, to compile their bytecode.

A separate module because `bytecode` is used by Bazel alone as well, which unpacks the packages itself.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

from policy_builder.discover.debian import data_archives, read_lock
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
    target = cache / "python" / content
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            unpack(archives.values(), Path(scratch, "python"))
            try:
                Path(scratch, "python").rename(target)
            except OSError:  # another build was faster
                if not target.is_dir():
                    raise
    return target
