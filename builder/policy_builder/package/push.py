"""Pushes an OCI layout to a registry: the push half of the OCI distribution specification 1.1.

A separate module because it is the one place of the builder that sends anything anywhere.
Standard library only; used by `policy-builder push` and by `bazel run //:image.push` in offline mode.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from policy_builder.package.oci_layout import INDEX_TYPE, MANIFEST_TYPE, blob_path, blobs, digest_of
from policy_builder.package.registry import DIRECT, Connection, PushError, Repository

__all__ = ["Connection", "PushError", "Pushed", "push", "put_blob", "put_manifest"]

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push came to: `uploaded` counts blobs that were sent, `present` those that the registry had."""

    digest: str
    uploaded: int
    present: int
    tags: tuple[str, ...]


def push(layout: Path, repository: str, tags: Sequence[str] = (), connection: Connection = DIRECT) -> Pushed:
    """Push the image or index in `layout` to `repository` (HOST/NAME) under its digest and `tags`.

    What the registry has already is not sent again. Raises PushError.
    """
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise PushError(f"{tag!r} is not a tag: letters, digits, `_`, `.` and `-`, at most 128")
    registry = Repository(repository, connection)
    uploaded = present = 0
    parts = blobs(layout)
    for part in parts:
        if part.media_type in (MANIFEST_TYPE, INDEX_TYPE):
            content = blob_path(layout, part.digest).read_bytes()
            new = put_manifest(registry, part.digest, content, part.media_type)
        else:
            new = put_blob(registry, part.digest, blob_path(layout, part.digest).read_bytes())
        uploaded, present = uploaded + new, present + (not new)
    top = parts[-1]
    content = blob_path(layout, top.digest).read_bytes()
    for tag in tags:
        put_manifest(registry, tag, content, top.media_type)
    return Pushed(top.digest, uploaded, present, tuple(tags))


def put_manifest(registry: Repository, reference: str, content: bytes, media_type: str) -> bool:
    """Store a manifest under a tag or its digest unless it is there; return whether it was sent. Raises PushError."""
    found = registry.call("HEAD", f"manifests/{reference}", accept=media_type)
    if found is not None and found.headers.get("Docker-Content-Digest") == digest_of(content):
        return False
    registry.call("PUT", f"manifests/{reference}", content, kind=media_type)
    return True


def put_blob(registry: Repository, digest: str, content: bytes) -> bool:
    """Store a blob unless it is there; return whether it was sent. Raises PushError."""
    if registry.call("HEAD", f"blobs/{digest}") is not None:
        return False
    started = registry.call("POST", "blobs/uploads/", b"")
    location = started.headers.get("Location") if started is not None else None
    if started is None or not location:
        raise PushError(f"{registry.host} accepted an upload without saying where to (no Location header)")
    separator = "&" if "?" in location else "?"
    where = f"{location}{separator}digest={urllib.parse.quote(digest)}"
    registry.call("PUT", where, content, base=started.url)
    return True
