"""Digests of sets of files; a separate module because registry, SBOM and labels must agree on a policy's digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath


def files_digest(files: Mapping[str, Path], changed: Mapping[str, bytes] | None = None) -> str:
    """Return `sha256:…` over names and contents of `files` (name → where its content is).

    `changed` has the contents of those that go into an image otherwise than they lie there.

    Times, owners and modes do not count. It is what `policy_engine.worker.policies.integrity.directory_digest` computes
    of the same files in a directory, so an installed image can be checked against its registry.
    """
    total = hashlib.sha256()
    for name in sorted(files, key=PurePosixPath):
        data = changed[name] if changed and name in changed else files[name].read_bytes()
        content = hashlib.sha256(data).hexdigest()
        total.update(f"{name}\0{content}\n".encode(errors="surrogateescape"))
    return "sha256:" + total.hexdigest()
