"""Packages a plan: layers, OCI layout, `docker load` tarball, documents, put into place all at once (R-40, R-44).

A separate module because the order of layers is decided here: what changes least lies lowest, so a changed line of one
policy changes its own small layer and the last one, which describes the image.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policy_builder.describe.generate import build_info, labels, licences, policy_directory, registry
from policy_builder.describe.sbom import sbom
from policy_builder.discover.debian import data_archives
from policy_builder.discover.workspace import Workspace
from policy_builder.package import layers
from policy_builder.package.bytecode import Interpreter
from policy_builder.package.compiling_python import compiling_python
from policy_builder.package.oci_layout import LAYER_TYPE, ImageConfig, blobs, write_docker_archive, write_image
from policy_builder.validate.validation import Plan

SITE_PACKAGES = "/usr/local/lib/python3.13/dist-packages"
"""Where Debian's Python looks for what Debian did not install, so no PYTHONPATH is needed in the image."""

POLICIES = "/app/policies"
CONFIGURATION = "/etc/policy-engine"
LAUNCHER = "/usr/local/bin/policy-engine"
ENTRYPOINT = (LAUNCHER, "run")
USER = "65532:65532"
WORKDIR = "/home/nonroot"
PORTS = ("9002/tcp", "9004/tcp")
ENVIRONMENT = {
    "POLICY_ENGINE_DEFAULT_CHAINS": f"{CONFIGURATION}/chains.yaml",
    "POLICY_ENGINE_DEFAULT_HEALTH_LISTEN": "0.0.0.0:9004",
    "POLICY_ENGINE_DEFAULT_LISTEN": "0.0.0.0:9002",
    "POLICY_ENGINE_DEFAULT_POLICIES_REGISTRY": f"{POLICIES}/registry.json",
}
"""ext_proc and health are asked from other containers; the admin pages stay on loopback."""

MAX_POLICY_LAYERS = 100
"""Above this, several policies share a layer: container engines stop at 127."""

Entry = Mapping[str, Any]


class OutputError(Exception):
    """The output directory holds something the builder did not make."""


@dataclass(frozen=True, slots=True)
class Built:
    """An image that was made: its digest, and its layers with their sizes in bytes, lowest first."""

    out: Path
    digest: str
    layers: tuple[tuple[str, int], ...]


def documents(plan: Plan) -> dict[str, str]:
    """Return the files that describe the image, by name; they are in the image and beside it."""
    return {
        "registry.json": registry(plan.facts),
        "build-info.json": build_info(plan.facts),
        "sbom.cdx.json": sbom(plan.facts),
        "licences.txt": licences(plan.facts),
    }


def layer_entries(plan: Plan, described: Mapping[str, str]) -> list[tuple[str, list[Entry]]]:
    """Return name and content of each layer above the base, lowest first."""
    needs = plan.resolution.engine
    additional = plan.resolution.additional()
    engine: list[Entry] = _installed(plan.engine.files)
    engine.append({"path": LAUNCHER, "source": plan.engine.launcher})
    engine += [{"path": f"{CONFIGURATION}/{path.name}", "source": path} for path in plan.choice.configuration]
    engine.append({"path": CONFIGURATION, "directory": True})
    found: list[tuple[str, list[Entry]]] = [
        ("requirements", [entry for one in needs.distributions.values() for entry in _installed(one.files)]),
        ("engine", engine),
    ]
    extra = [entry for one in additional.distributions.values() for entry in _installed(one.files)]
    extra += [entry for library in additional.libraries for entry in _installed(library.files)]
    if extra:
        found.append(("policy-requirements", extra))
    found += _policy_layers(plan)
    found.append(("registry", [{"path": f"{POLICIES}/{name}", "content": text} for name, text in described.items()]))
    return found


def build(plan: Plan, out: Path, workspace: Workspace) -> Built:
    """Write the image of `plan` to the directory `out`, which is replaced as a whole, or not at all when this raises.

    Raises OutputError, DebianError, BytecodeError and layers.LayerError.
    """
    if out.exists() and not (out / "build-info.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists and was not made by policy-builder; choose another --output, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    described = documents(plan)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        result = Path(scratch, "result")
        result.mkdir()
        tars = _write_layers(plan, described, Path(scratch), workspace)
        config = ImageConfig(
            "linux",
            plan.platform.architecture,
            USER,
            WORKDIR,
            ENTRYPOINT,
            exposed_ports=PORTS,
            env=ENVIRONMENT,
            labels=labels(plan.facts),
        )
        digest = write_image(result / "oci", tars, config)
        write_docker_archive(result / "oci", result / "image.tar", [f"{plan.choice.repository}:{plan.engine.version}"])
        for name, text in described.items():
            (result / name).write_text(text, encoding="utf-8")
        (result / "digest").write_text(digest + "\n")
        sizes = tuple((tar.stem, tar.stat().st_size) for tar in tars)
        if out.exists():
            out.rename(Path(scratch, "replaced"))
        shutil.move(result, out)
    return Built(out, digest, sizes)


def layer_digests(layout: Path) -> tuple[str, ...]:
    """Return the digests of an image's layers, lowest first."""
    return tuple(blob.digest for blob in blobs(layout) if blob.media_type == LAYER_TYPE)


def _write_layers(plan: Plan, described: Mapping[str, str], scratch: Path, workspace: Workspace) -> list[Path]:
    directory = scratch / "layers"
    directory.mkdir()
    interpreter = Interpreter(compiling_python(workspace.debian_lock, workspace.cache))
    tars: list[Path] = []

    def write(name: str, layer: layers.Layer) -> None:
        layer.compile(interpreter)
        tars.append(directory / f"{name}.tar")
        layer.write(tars[-1])

    write("base", layers.debs(data_archives(plan.facts.debian, workspace.cache).values()))
    for name, entries in layer_entries(plan, described):
        write(name, layers.files(entries))
    return tars


def _policy_layers(plan: Plan) -> list[tuple[str, list[Entry]]]:
    policies = plan.policies
    per_layer = -(-len(policies) // MAX_POLICY_LAYERS) or 1
    found: list[tuple[str, list[Entry]]] = []
    for start in range(0, len(policies), per_layer):
        group = policies[start : start + per_layer]
        entries: list[Entry] = [
            {"path": f"{POLICIES}/{policy_directory(policy)}/{name}", "source": path}
            for policy in group
            for name, path in policy.files.items()
        ]
        found.append((f"{group[0].name}.{group[0].version}", entries))
    return found


def _installed(files: Mapping[str, Path]) -> list[Entry]:
    return [{"path": f"{SITE_PACKAGES}/{name}", "source": path} for name, path in files.items()]
