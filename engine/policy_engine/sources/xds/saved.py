"""The last known good configuration on disk, for an engine that restarts while its management server is away (R-21).

A separate module because what is read back is input like any other: it is checked before a byte of it is used. The
file holds resources as the server sent them, so a secret in it is still a reference (R-24).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from policy_engine.documents.plain_file import read_plain_file

_FORMAT: Final = 1
_MAX_BYTES: Final = 256 * 2**20


class SavedError(Exception):
    """The file cannot be used; the message says what is wrong with it and that deleting it is safe."""


@dataclass(frozen=True, slots=True)
class SavedResource:
    """One resource: its name, its own version (delta) and its bytes as received."""

    name: str
    version: str
    wire: bytes


@dataclass(frozen=True, slots=True)
class Saved:
    """A set of resources of one type; `variant` is the one that gave the versions their meaning."""

    type_url: str
    variant: str
    version: str
    resources: tuple[SavedResource, ...]


def save(path: Path, saved: Saved) -> None:
    """Replace the file at `path` in one step, readable by its owner only; raises OSError.

    A crash at any moment leaves either the old file or the new one.
    """
    body = json.dumps(_document(saved), sort_keys=True, separators=(",", ":")).encode()
    content = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    _sync_directory(path.parent)


def load(path: Path, type_url: str) -> Saved | None:
    """Return what was saved at `path`, or None when there is no such file; raises SavedError when it cannot be used."""
    try:
        content = read_plain_file(path, _MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SavedError(f"{path}: cannot be read: {error.strerror}") from None
    checksum, _, body = content.partition(b"\n")
    if len(content) > _MAX_BYTES or checksum.decode("ascii", "replace") != hashlib.sha256(body).hexdigest():
        raise SavedError(f"{path}: damaged (its checksum is wrong); it is ignored and may be deleted")
    try:
        saved = _from_document(json.loads(body))
    except (ValueError, KeyError, TypeError):
        raise SavedError(f"{path}: not in format {_FORMAT}; it is ignored and may be deleted") from None
    if saved.type_url != type_url:
        raise SavedError(f"{path}: holds {saved.type_url}, not {type_url}; it is ignored and may be deleted")
    return saved


def _document(saved: Saved) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "type_url": saved.type_url,
        "variant": saved.variant,
        "version": saved.version,
        "resources": [[one.name, one.version, base64.b64encode(one.wire).decode()] for one in _sorted(saved.resources)],
    }


def _from_document(document: Any) -> Saved:
    if document["format"] != _FORMAT:
        raise ValueError(document["format"])
    resources = tuple(
        SavedResource(str(name), str(version), base64.b64decode(wire, validate=True))
        for name, version, wire in document["resources"]
    )
    return Saved(str(document["type_url"]), str(document["variant"]), str(document["version"]), resources)


def _sorted(resources: Iterable[SavedResource]) -> list[SavedResource]:
    return sorted(resources, key=lambda one: one.name)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
