"""Tools written in Go, built once from the Go proxy and kept: for tests that run on demand.

A separate module because building takes minutes, and every such test wants it done once for all.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

DIRECTORY_VARIABLE = "GO_TOOLS"
"""Environment variable with the directory that keeps the tools; `~/.cache/policy-engine/go-tools` unless set."""

MODULES = {
    "helm": "helm.sh/helm/v3/cmd/helm@v3.19.0",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0",
    "kube-score": "github.com/zegl/kube-score/cmd/kube-score@v1.20.0",
}
_SECONDS = 3600.0


def go_tool(name: str) -> Path:
    """Return the binary of a tool, built if it is not there yet; raises CalledProcessError when it cannot be built."""
    named = os.environ.get(DIRECTORY_VARIABLE)
    directory = Path(named) if named else Path.home() / ".cache" / "policy-engine" / "go-tools"
    binary = directory / name
    if not binary.exists():
        environment = {**os.environ, "GOBIN": str(directory), "GOFLAGS": "-buildvcs=false"}
        command = ["go", "install", MODULES[name]]
        subprocess.run(command, check=True, env=environment, timeout=_SECONDS)  # noqa: S603 - a command of ours
    return binary
