"""Which revision of which repository an image was built of: asked of git, noted beside the image.

A separate module because it must stay out of the image: the same content has the same digest whatever commit it is in.
"""

from __future__ import annotations

import json
import subprocess
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MATERIALS = "materials.json"
"""File of a layout, beside its blobs: what its image was made from."""

_INDEX = "index.json"
_SOURCE = "org.opencontainers.image.source"
_REVISION = "org.opencontainers.image.revision"
_MODIFIED = "-modified"
_TAGS = "policy-engine.tags"
GIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Source:
    """A repository, as a URI without credentials, and a commit; empty where that is not known.

    `modified` says that files were changed after that commit.
    """

    uri: str = ""
    revision: str = ""
    modified: bool = False

    def annotations(self) -> dict[str, str]:
        """Return the annotations of OCI that say so."""
        revision = f"{self.revision}{_MODIFIED}" if self.modified else self.revision
        found = {_SOURCE: self.uri, _REVISION: revision}
        return {key: value for key, value in found.items() if value}


UNKNOWN = Source()


def source_of(directory: Path) -> Source:
    """Return what git says of `directory`; nothing where it is in no repository, or git is not there."""
    revision = _git(directory, "rev-parse", "HEAD")
    if revision is None:
        return UNKNOWN
    remote = _git(directory, "config", "--get", "remote.origin.url") or ""
    return Source(without_credentials(remote), revision, bool(_git(directory, "status", "--porcelain")))


def without_credentials(uri: str) -> str:
    """Return `uri` without user, password, query and fragment: a token in it must not be published."""
    if "://" not in uri:
        return uri.rpartition("@")[2] if "@" in uri.partition("/")[0] and ":" in uri else uri
    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError:
        return ""
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def write_source(layout: Path, source: Source, materials: list[dict[str, Any]], tags: Sequence[str] = ()) -> None:
    """Note in an OCI layout what its image was built of: in the annotations of its index, which no digest covers.

    `tags` are those that a push gives it.
    """
    index = json.loads((layout / _INDEX).read_bytes())
    if annotations := source.annotations() | ({_TAGS: ",".join(tags)} if tags else {}):
        index["manifests"][0]["annotations"] = annotations
        (layout / _INDEX).write_text(json.dumps(index, sort_keys=True, separators=(",", ":")), encoding="utf-8")
    (layout / MATERIALS).write_text(json.dumps(materials, indent=1) + "\n", encoding="utf-8")


def read_source(layout: Path) -> tuple[Source, list[dict[str, Any]]]:
    """Return what `write_source` noted; nothing where it did not."""
    try:
        annotations = json.loads((layout / _INDEX).read_bytes())["manifests"][0].get("annotations", {})
        revision, modified, _ = str(annotations.get(_REVISION, "")).partition(_MODIFIED)
        source = Source(str(annotations.get(_SOURCE, "")), revision, bool(modified))
        path = layout / MATERIALS
        return source, list(json.loads(path.read_bytes())) if path.is_file() else []
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return UNKNOWN, []


def read_tags(layout: Path) -> list[str]:
    """Return the tags that `write_source` noted."""
    try:
        annotations = json.loads((layout / _INDEX).read_bytes())["manifests"][0].get("annotations", {})
        return [tag for tag in str(annotations.get(_TAGS, "")).split(",") if tag]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return []


def _git(directory: Path, *arguments: str) -> str | None:
    """Return what git prints; None when it fails, cannot be found, or takes too long."""
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],  # noqa: S607 - whichever git the builder's user has
            capture_output=True,
            check=False,
            timeout=GIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None
