"""An image that somebody changed, and all of whose digests are right again: for tests of what verifies images."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from policy_builder.package.oci_layout import blob_path, canonical, digest_of
from policy_builder.testworld import manifest_of


def tampered(out: Path, path: str, change: bytes) -> None:
    """Append to a file in an image's layer, with every digest above it made anew."""
    layout = out / "oci"
    manifest = manifest_of(layout)
    config = json.loads(blob_path(layout, manifest["config"]["digest"]).read_bytes())
    for number, layer in enumerate(manifest["layers"]):
        with tarfile.open(blob_path(layout, layer["digest"])) as tar:
            members = [(member, tar.extractfile(member).read() if member.isreg() else b"") for member in tar]  # type: ignore[union-attr] # it is a file
        if path not in [member.name for member, _ in members]:
            continue
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for member, content in members:
                changed = content + change if member.name == path else content
                member.size = len(changed)
                tar.addfile(member, io.BytesIO(changed))
        config["rootfs"]["diff_ids"][number] = digest_of(data.getvalue())
        manifest["layers"][number] |= _stored(layout, gzip.compress(data.getvalue(), mtime=0))
    manifest["config"] |= _stored(layout, canonical(config))
    index = json.loads((layout / "index.json").read_bytes())
    index["manifests"][0] |= _stored(layout, canonical(manifest))
    (layout / "index.json").write_bytes(canonical(index))


def _stored(layout: Path, content: bytes) -> dict[str, Any]:
    blob_path(layout, digest_of(content)).write_bytes(content)
    return {"digest": digest_of(content), "size": len(content)}
