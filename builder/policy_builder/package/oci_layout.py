"""OCI image layouts: written, described, and packed for `docker load` (OCI image specification 1.1).

A separate module because Bazel (through tools/offline's stand-in for rules_oci) and `policy-builder` write layouts
with the same code: that is why their digests agree. Standard library only.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EPOCH = "1970-01-01T00:00:00Z"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
COMPRESSED_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_TYPES = (LAYER_TYPE, COMPRESSED_TYPE)
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How containers of an image run, and its labels; names as in the OCI image configuration.

    `annotations` are those of its manifest.
    """

    os: str
    architecture: str
    user: str = ""
    workdir: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Blob:
    """One piece of content of a layout."""

    media_type: str
    digest: str
    size: int


def canonical(value: Any) -> bytes:
    """Return JSON whose bytes depend on nothing but `value`."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def digest_of(data: bytes) -> str:
    """Return the OCI digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def blob_path(layout: Path, digest: str) -> Path:
    """Return where `layout` keeps the content with `digest`."""
    return layout / "blobs" / digest.replace(":", "/")


def write_image(layout: Path, layers: Sequence[Path], config: ImageConfig) -> str:
    """Write a layout with one image of the tars `layers`, plain or gzip, lowest first; return its manifest's digest."""
    contents = [tar.read_bytes() for tar in layers]
    stored = [
        _put(layout, COMPRESSED_TYPE if content.startswith(_GZIP) else LAYER_TYPE, content) for content in contents
    ]
    container = {
        "Env": [f"{key}={value}" for key, value in ({"PATH": PATH} | dict(config.env)).items()],
        "Labels": dict(config.labels),
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "User": config.user,
        "WorkingDir": config.workdir,
        "ExposedPorts": {port: {} for port in config.exposed_ports},
    }
    image = {
        "created": EPOCH,
        "os": config.os,
        "architecture": config.architecture,
        "config": {key: value for key, value in container.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [_uncompressed_digest(one) for one in contents]},
        "history": [{"created": EPOCH, "created_by": tar.name.removesuffix(".gz")} for tar in layers],
    }
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _put(layout, CONFIG_TYPE, canonical(image)),
        "layers": stored,
    }
    if config.annotations:
        manifest["annotations"] = dict(config.annotations)
    descriptor = _put(layout, MANIFEST_TYPE, canonical(manifest))
    _finish(layout, [descriptor])
    return str(descriptor["digest"])


def _uncompressed_digest(content: bytes) -> str:
    return digest_of(gzip.decompress(content) if content.startswith(_GZIP) else content)


def write_index(layout: Path, images: Sequence[Path]) -> str:
    """Write a layout with one index over the images of other layouts, one per platform; return the index's digest."""
    descriptors = []
    for image in images:
        (descriptor,) = _index(image)["manifests"]
        for blob in _blobs_of(image, descriptor["digest"]):
            _put(layout, blob.media_type, blob_path(image, blob.digest).read_bytes())
        config = json.loads(blob_path(image, _read(image, descriptor["digest"])["config"]["digest"]).read_bytes())
        platform = {"os": config["os"], "architecture": config["architecture"]}
        descriptors.append({**descriptor, "platform": platform})
    descriptors.sort(key=lambda one: (one["platform"]["os"], one["platform"]["architecture"]))
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": descriptors}
    descriptor = _put(layout, INDEX_TYPE, canonical(index))
    _finish(layout, [descriptor])
    return str(descriptor["digest"])


def blobs(layout: Path) -> tuple[Blob, ...]:
    """Return everything that an image (or index) consists of, what others refer to first: the order of a push."""
    (descriptor,) = _index(layout)["manifests"]
    return tuple(dict.fromkeys(_blobs_of(layout, descriptor["digest"])))


def write_docker_archive(layout: Path, out: Path, tags: Sequence[str]) -> None:
    """Write the tar that `docker load` and `podman load` read, of a layout with one image."""
    (descriptor,) = _index(layout)["manifests"]
    manifest = _read(layout, descriptor["digest"])
    if manifest["mediaType"] != MANIFEST_TYPE:
        raise ValueError(f"{layout} holds an index of several platforms; `docker load` takes one image")
    config, *layers = (str(blob_path(Path(), part["digest"])) for part in [manifest["config"], *manifest["layers"]])
    listing = [{"Config": config, "RepoTags": list(tags), "Layers": layers}]
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted({config, *layers}):
            _add(tar, name, (layout / name).read_bytes())
        _add(tar, "manifest.json", canonical(listing))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))


def _index(layout: Path) -> dict[str, Any]:
    return dict(json.loads((layout / "index.json").read_bytes()))


def _read(layout: Path, digest: str) -> dict[str, Any]:
    return dict(json.loads(blob_path(layout, digest).read_bytes()))


def _blobs_of(layout: Path, digest: str) -> Iterator[Blob]:
    document = _read(layout, digest)
    for manifest in document.get("manifests", ()):
        yield from _blobs_of(layout, manifest["digest"])
    for part in [*document.get("layers", ()), *([document["config"]] if "config" in document else ())]:
        yield Blob(part["mediaType"], part["digest"], part["size"])
    yield Blob(document["mediaType"], digest, blob_path(layout, digest).stat().st_size)


def _put(layout: Path, media_type: str, data: bytes) -> dict[str, Any]:
    """Store `data` and return its descriptor."""
    path = blob_path(layout, digest_of(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _finish(layout: Path, manifests: list[dict[str, Any]]) -> None:
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
    (layout / "index.json").write_bytes(canonical(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
