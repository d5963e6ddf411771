"""What a number of the benchmarks is worth nothing without: the machine's facts, and versions of what is compared."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from benchmarks.peers.cpp_build import compiler_version
from benchmarks.run import load
from integration.harness.machine import busy, facts

_PACKAGES = ("grpcio", "protobuf", "uvloop", "hpack", "PyJWT", "cryptography", "cel-expr-python")


def notes(*, cpp: bool) -> Mapping[str, str]:
    """Return the head of a report."""
    found = {
        **facts(),
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "load": f"{load.version('wrk')}; {load.version('h2load')}",
        "load average before": busy(),
    }
    return {**found, "C++ peer": compiler_version()} if cpp else {**found, "C++ peer": "left out"}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"
