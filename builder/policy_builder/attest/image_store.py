"""Reads images, of a registry or of an OCI layout on disk: manifests and layers, each checked by its digest.

A separate module because whoever judges an image must not care where it lies, and must trust nothing of it: tars of
strangers are read within bounds and never unpacked outside of the directory that is given.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from policy_builder.package.oci_layout import INDEX_TYPE, MANIFEST_TYPE, blob_path, digest_of
from policy_builder.package.registry import Repository

MAX_LAYER = 4 << 30
MAX_UNPACKED = 8 << 30
MAX_ENTRIES = 500_000
_SHA256 = "sha256:"


class ImageError(Exception):
    """An image cannot be read; the message says which part of it and why."""


class Store(Protocol):
    """Where the parts of an image lie."""

    def manifest(self, reference: str) -> bytes:
        """Return a manifest or an index by its digest. Raises ImageError."""
        ...

    def blob(self, digest: str) -> Path:
        """Return a file with the content that has `digest`. Raises ImageError."""
        ...


@dataclass(frozen=True, slots=True)
class Image:
    """One image for one platform. `descriptor` is that of its manifest; `layers` lowest first."""

    descriptor: Mapping[str, Any]
    platform: str
    config: Mapping[str, Any] = field(repr=False)
    layers: tuple[Mapping[str, Any], ...] = field(repr=False)

    @property
    def digest(self) -> str:
        """The digest of the manifest."""
        return str(self.descriptor["digest"])

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of its configuration."""
        found = self.config.get("config", {}).get("Labels") or {}
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


class RegistryStore:
    """Parts of an image in a registry, downloaded into `scratch`."""

    def __init__(self, registry: Repository, scratch: Path) -> None:
        self._registry = registry
        self._scratch = scratch

    def manifest(self, reference: str) -> bytes:
        """Return a manifest or an index by its digest or tag; a digest is checked."""
        answer = self._registry.call("GET", f"manifests/{reference}", accept=f"{MANIFEST_TYPE}, {INDEX_TYPE}")
        if answer is None:
            raise ImageError(f"{self._registry.host} has no {reference}")
        if reference.startswith(_SHA256) and digest_of(answer.body) != reference:
            raise ImageError(f"{self._registry.host} sent another content for {reference}")
        return answer.body

    def blob(self, digest: str) -> Path:
        """Return the downloaded content with `digest`."""
        path = self._scratch / digest.replace(":", "-").replace("/", "-")
        if path.exists():
            return path
        answer = self._registry.call("GET", f"blobs/{digest}", into=path, most=MAX_LAYER)
        if answer is None:
            raise ImageError(f"{self._registry.host} lacks {digest}, which the image consists of")
        return _checked(path, digest)


class LayoutStore:
    """Parts of an image in an OCI layout."""

    def __init__(self, layout: Path) -> None:
        self._layout = layout

    def top(self) -> str:
        """Return the digest of the one image or index that the layout holds."""
        try:
            (descriptor,) = json.loads((self._layout / "index.json").read_bytes())["manifests"]
            return str(descriptor["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ImageError(f"{self._layout} is no OCI layout with one image") from None

    def manifest(self, reference: str) -> bytes:
        """Return a manifest or an index by its digest."""
        return self.blob(reference).read_bytes()

    def blob(self, digest: str) -> Path:
        """Return the content with `digest`."""
        path = blob_path(self._layout, digest)
        if not digest.startswith(_SHA256) or not path.is_file():
            raise ImageError(f"{self._layout} lacks {digest}")
        return _checked(path, digest)


@dataclass(frozen=True, slots=True)
class Entry:
    """What an image has at one path: `kind` is file, link or directory, or says what else; `value` content or target.

    The value of a file is its sha256. `layer` counts from 0, lowest first.
    """

    kind: str
    value: str
    size: int
    mode: int
    layer: int = field(default=0, compare=False)


def images(store: Store, digest: str) -> list[Image]:
    """Return the image with `digest`, or those of an index, one for each platform. Raises ImageError."""
    content = store.manifest(digest)
    document = _parsed(content, digest)
    if "manifests" in document:
        return [one for each in document["manifests"] for one in images(store, str(each["digest"]))]
    try:
        config = _parsed(store.blob(str(document["config"]["digest"])).read_bytes(), "its configuration")
        layers = tuple(dict(layer) for layer in document["layers"])
        kind = str(document.get("mediaType", MANIFEST_TYPE))
        descriptor = {"mediaType": kind, "digest": digest, "size": len(content)}
        return [Image(descriptor, f"{config['os']}/{config['architecture']}", config, layers)]
    except (KeyError, TypeError, ValueError):
        raise ImageError(f"{digest} is no image") from None


def unpack(store: Store, image: Image, root: Path) -> dict[str, Entry]:
    """Write the regular files of an image below `root`; return everything it has by path (`usr/bin/python3`).

    Links and directories are listed and not made, so that nothing below `root` leads out of it. Raises ImageError.
    """
    listing: dict[str, Entry] = {}
    size = 0
    for position, layer in enumerate(image.layers):
        for path, member, content in _members(store.blob(str(layer["digest"])), position):
            size += len(content)
            if size > MAX_UNPACKED or len(listing) > MAX_ENTRIES:
                raise ImageError(f"layer {position + 1} unpacks to more than is looked at")
            base = PurePosixPath(path).name
            if base.startswith(".wh."):
                listing[path] = Entry("whiteout", "", 0, member.mode, position)
                continue
            if member.isreg():
                value = hashlib.sha256(content).hexdigest()
                listing[path] = Entry("file", value, len(content), member.mode, position)
                target = root / path
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
                except OSError as error:
                    raise ImageError(f"/{path} cannot be unpacked: {error.strerror}") from None
            elif member.isdir():
                listing[path] = Entry("directory", "", 0, member.mode, position)
            elif member.issym():
                listing[path] = Entry("link", member.linkname, 0, member.mode, position)
            else:
                kind = "hard link" if member.islnk() else "special file"
                listing[path] = Entry(kind, member.linkname, 0, member.mode, position)
    return listing


def _members(path: Path, position: int) -> Iterator[tuple[str, tarfile.TarInfo, bytes]]:
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = member.name.removeprefix("./").rstrip("/")
                if not name or name == ".":
                    continue
                parts = name.split("/")
                if name.startswith("/") or "\0" in name or any(part in ("", ".", "..") for part in parts):
                    raise ImageError(f"layer {position + 1} has {name[:100]!r}, which is no path below its root")
                if member.size > MAX_LAYER:
                    raise ImageError(f"layer {position + 1} has {name[:100]!r}, which is larger than is looked at")
                stream = tar.extractfile(member) if member.isreg() else None
                yield name, member, stream.read() if stream is not None else b""
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OSError) as error:
        raise ImageError(f"layer {position + 1} cannot be read: {str(error)[:200] or type(error).__name__}") from None


def _checked(path: Path, digest: str) -> Path:
    with path.open("rb") as file:
        actual = _SHA256 + hashlib.file_digest(file, "sha256").hexdigest()
    if actual != digest:
        raise ImageError(f"{digest} has another content: {actual}")
    return path


def _parsed(content: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ImageError(f"{what} is no JSON object")
    return document
