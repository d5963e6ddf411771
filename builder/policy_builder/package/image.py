"""Packages a plan: layers, OCI layout, `docker load` tarball, documents, put into place all at once (R-40, R-44).

A separate module because only a build without Bazel packages by itself; what lies where, and in which layer, the recipe
says to both (recipe.bzl).
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policy_builder import recipe
from policy_builder.describe.documents import documents
from policy_builder.describe.engine_metadata import engine_metadata
from policy_builder.describe.generate import labels
from policy_builder.describe.purls import debian_purl, pypi_purl
from policy_builder.discover.debian import package_archives
from policy_builder.discover.policy_source import PolicySource
from policy_builder.discover.workspace import Workspace
from policy_builder.package import layers
from policy_builder.package.bytecode import Interpreter
from policy_builder.package.compiling_python import compiling_python
from policy_builder.package.oci_layout import LAYER_TYPES, ImageConfig, blobs, write_docker_archive, write_image
from policy_builder.package.source_revision import source_of, write_source
from policy_builder.validate.validation import Plan

Entry = Mapping[str, Any]


class OutputError(Exception):
    """The output directory holds something the builder did not make."""


@dataclass(frozen=True, slots=True)
class Built:
    """An image that was made: its digest, and its layers with their sizes in bytes, lowest first."""

    out: Path
    digest: str
    layers: tuple[tuple[str, int], ...]


def layer_entries(plan: Plan, described: Mapping[str, str]) -> list[tuple[str, Sequence[Entry]]]:
    """Return name and content of each layer above the base, lowest first; `described` are the documents by key."""
    needs = plan.resolution.engine
    additional = plan.resolution.additional()
    engine = _installed(plan.engine.files)
    engine.append({"path": recipe.LAUNCHER, "source": plan.engine.launcher})
    engine += [{"path": f"{recipe.CONFIGURATION}/{path.name}", "source": path} for path in plan.choice.configuration]
    engine.append({"path": recipe.CONFIGURATION, "directory": True})
    engine += [
        {"path": f"{recipe.SITE_PACKAGES}/{name}", "content": text}
        for name, text in engine_metadata(plan.facts).items()
    ]
    extra = [entry for one in additional.distributions.values() for entry in _installed(one.files)]
    extra += [entry for library in additional.libraries for entry in _installed(library.files)]
    return recipe.layers(
        [entry for one in needs.distributions.values() for entry in _installed(one.files)],
        engine,
        extra,
        [(f"{policy.name}.{policy.version}", _policy_entries(policy)) for policy in plan.policies],
        [{"path": f"{recipe.POLICIES}/{recipe.DOCUMENTS[key]}", "content": text} for key, text in described.items()],
    )


def build(plan: Plan, out: Path, workspace: Workspace) -> Built:
    """Write the image of `plan` to the directory `out`, which is replaced as a whole, or not at all when this raises.

    Raises OutputError, DebianError, BytecodeError and layers.LayerError.
    """
    ours = (out / recipe.DOCUMENTS["build_info"]).is_file()
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists and was not made by policy-builder; choose another --output, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    described = documents(plan.facts)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        result = Path(scratch, "result")
        result.mkdir()
        tars = _write_layers(plan, described, Path(scratch), workspace)
        container = plan.choice.container
        config = ImageConfig(
            "linux",
            plan.platform.architecture,
            recipe.USER,
            recipe.WORKDIR,
            recipe.ENTRYPOINT,
            exposed_ports=recipe.PORTS,
            env={**recipe.ENVIRONMENT, **container.env},
            labels={**labels(plan.facts), **container.labels},
            annotations=container.annotations,
        )
        digest = write_image(result / "oci", tars, config)
        write_docker_archive(result / "oci", result / "image.tar", image_tags(plan))
        for key, text in described.items():
            (result / recipe.DOCUMENTS[key]).write_text(text, encoding="utf-8")
        (result / "digest").write_text(digest + "\n")
        source = source_of(Path(plan.choice.document.file).parent)
        write_source(result / "oci", source, materials(plan, workspace), container.tags)
        sizes = tuple((_name(tar), tar.stat().st_size) for tar in tars)
        if out.exists():
            out.rename(Path(scratch, "replaced"))
        shutil.move(result, out)
    return Built(out, digest, sizes)


def image_tags(plan: Plan) -> list[str]:
    """Return what the image is called in a container engine: by the tags of its choice, else the engine's version."""
    tags = plan.choice.container.tags or (plan.engine.version,)
    return [f"{plan.choice.repository}:{tag}" for tag in tags]


def materials(plan: Plan, workspace: Workspace) -> list[dict[str, Any]]:
    """Return everything an image is made from, as resource descriptors of in-toto, each with its sha256."""
    additional = plan.resolution.additional()
    found = [
        {"uri": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in (workspace.lock, workspace.debian_lock)
    ]
    found += [{"uri": debian_purl(one, plan.facts.debian), "sha256": one.sha256} for one in plan.facts.debian.packages]
    distributions = {**plan.resolution.engine.distributions, **additional.distributions}
    found += [{"uri": pypi_purl(one), "sha256": one.wheel} for _, one in sorted(distributions.items())]
    return [{"uri": one["uri"], "digest": {"sha256": one["sha256"]}} for one in found]


def _name(tar: Path) -> str:
    return tar.name.removesuffix(".gz").removesuffix(".tar")


def layer_digests(layout: Path) -> tuple[str, ...]:
    """Return the digests of an image's layers, lowest first."""
    return tuple(blob.digest for blob in blobs(layout) if blob.media_type in LAYER_TYPES)


def _write_layers(plan: Plan, described: Mapping[str, str], scratch: Path, workspace: Workspace) -> list[Path]:
    directory = scratch / "layers"
    directory.mkdir()
    interpreter = Interpreter(compiling_python(workspace.debian_lock, workspace.cache))
    tars: list[Path] = []

    def write(name: str, layer: layers.Layer) -> None:
        layer.compile(interpreter)
        tars.append(directory / f"{name}{recipe.COMPRESSIONS[plan.choice.container.compression]}")
        layer.write(tars[-1], interpreter)

    write("base", layers.debs(package_archives(plan.facts.debian, workspace.cache)))
    for name, entries in layer_entries(plan, described):
        write(name, layers.files(entries))
    return tars


def _policy_entries(policy: PolicySource) -> list[Entry]:
    directory = f"{recipe.POLICIES}/{recipe.policy_directory(policy.name, policy.version)}"
    return [{"path": f"{directory}/{name}", "source": path} for name, path in policy.files.items()]


def _installed(files: Mapping[str, Path]) -> list[Entry]:
    return [{"path": f"{recipe.SITE_PACKAGES}/{name}", "source": path} for name, path in files.items()]
