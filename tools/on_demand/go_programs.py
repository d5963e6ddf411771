"""Programs written in Go, built once from the Go module proxy and kept: controllers and tools for tests on demand.

A separate module because building takes minutes, and every such test wants it done once for all. What is fetched is
held against Go's checksum database; versions stand here alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tools.on_demand.cache import cache, home

KUBERNETES: Final = "v1.37.2"
ENVOY_GATEWAY: Final = "v1.9.1"
ISTIO: Final = "v0.0.0-20260827124520-eed52ebb66ad"
"""Istio has no usable tags as a Go module: this is what the proxy calls its newest."""

_SECONDS: Final = 7200.0
_STAGED: Final = re.compile(r"^\s*(k8s\.io/\S+) => \./staging/", re.MULTILINE)


class GoError(RuntimeError):
    """A program cannot be had; the message says what was run and how it ended."""


@dataclass(frozen=True, slots=True)
class Program:
    """The main package of a module at one version.

    `staged` for Kubernetes, whose go.mod names directories of its own repository where others have modules: it is built
    from a module made for it, with `k8s.io/*` of the same release.
    """

    module: str
    version: str
    package: str
    staged: bool = False
    flags: Sequence[str] = ()

    @property
    def main(self) -> str:
        """The path of the main package; one with a host in it is of another module that this one is made with."""
        return self.package if "." in self.package.partition("/")[0] else f"{self.module}/{self.package}"


_KUBERNETES: Final = "k8s.io/kubernetes"

PROGRAMS: Final[Mapping[str, Program]] = MappingProxyType(
    {
        "helm": Program("helm.sh/helm/v3", "v3.19.0", "cmd/helm"),
        "kubeconform": Program("github.com/yannh/kubeconform", "v0.7.0", "cmd/kubeconform"),
        "kube-score": Program("github.com/zegl/kube-score", "v1.20.0", "cmd/kube-score"),
        "envoy-gateway": Program("github.com/envoyproxy/gateway", ENVOY_GATEWAY, "cmd/envoy-gateway"),
        "pilot-discovery": Program("istio.io/istio", ISTIO, "pilot/cmd/pilot-discovery"),
        "kube-apiserver": Program(
            _KUBERNETES,
            KUBERNETES,
            "cmd/kube-apiserver",
            staged=True,
            # Else it says that it is v0.0.0, which clients take for a very old one.
            flags=("-ldflags", f"-X k8s.io/component-base/version.gitVersion={KUBERNETES}"),
        ),
        "kubectl": Program(_KUBERNETES, KUBERNETES, "cmd/kubectl", staged=True),
        # Of the version that Kubernetes is made with.
        "etcd": Program(_KUBERNETES, KUBERNETES, "go.etcd.io/etcd/server/v3", staged=True),
    }
)


def go_program(name: str) -> Path:
    """Return a program of `PROGRAMS`, built if it is not there yet (seconds to minutes); raises GoError."""
    program = PROGRAMS[name]
    binary = cache("go-programs") / f"{name}-{program.version}" / name
    if not binary.exists():
        binary.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=binary.parent) as aside:
            build = _build_staged if program.staged else _install
            built = build(program, Path(aside))
            built.rename(binary)  # at once: what is interrupted leaves no half of a program
    return binary


def module_directory(module: str, version: str) -> Path:
    """Return the directory of a module's files, which may not be changed; raises GoError."""
    return Path(_download(module, version)["Dir"])


def _install(program: Program, aside: Path) -> Path:
    _go(["install", *program.flags, f"{program.main}@{program.version}"], aside, {"GOBIN": str(aside)})
    return aside / program.main.rpartition("/")[2]


def _build_staged(program: Program, aside: Path) -> Path:
    """Build with a go.mod that has modules where that of Kubernetes has directories."""
    text = Path(_download(program.module, program.version)["GoMod"]).read_text("utf-8")
    release = program.version.replace("v1.", "v0.", 1)
    _go(["mod", "init", "policy-engine/go-programs"], aside)
    pinned = [f"-replace={one}={one}@{release}" for one in _STAGED.findall(text)]
    _go(["mod", "edit", f"-require={program.module}@{program.version}", *pinned], aside)
    _go(["build", "-mod=mod", *program.flags, "-o", "program", program.main], aside)
    return aside / "program"


def _download(module: str, version: str) -> Mapping[str, str]:
    with tempfile.TemporaryDirectory() as elsewhere:  # no go.mod of anybody's decides
        found: dict[str, str] = json.loads(_go(["mod", "download", "-json", f"{module}@{version}"], Path(elsewhere)))
    return found


def _go(arguments: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None) -> str:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise GoError("go is not on PATH, nor in /usr/local/go/bin: install Go 1.26 or newer")
    # In a test of Bazel HOME is empty: modules and what is compiled would be fetched and made each time.
    ours = {**os.environ, "HOME": str(home()), "GOFLAGS": "-buildvcs=false", "GOWORK": "off", **(environment or {})}
    command = [go, *arguments]
    try:
        done = subprocess.run(
            command, cwd=directory, env=ours, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise GoError(f"{' '.join(command)}: not done within {_SECONDS:g} s") from None
    if done.returncode != 0:
        raise GoError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout
