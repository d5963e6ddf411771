"""Resolves the policies chosen for an image into the registry that the engine reads, the image's labels and its tag.

    resolve.py CHOSEN.json REGISTRY.json LABELS.txt TAGS.txt

CHOSEN.json comes from policy_image (builder/defs.bzl). All mistakes are reported at once (R-42).
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml


class ResolveError(Exception):
    """A chosen policy does not say what its target says."""


def digest(files: list[dict[str, str]]) -> str:
    """Return the digest of a policy's files: of their paths and contents, whatever their order."""
    total = hashlib.sha256()
    for file in sorted(files, key=lambda file: file["path"]):
        content = hashlib.sha256(Path(file["source"]).read_bytes()).hexdigest()
        total.update(f"{file['path']}\0{content}\n".encode())
    return "sha256:" + total.hexdigest()


def entry(policy: dict[str, Any]) -> dict[str, str]:
    """Return the registry's entry for one policy; raises ResolveError when policy.yaml disagrees with the target."""
    (manifest,) = (file["source"] for file in policy["files"] if file["path"] == "policy.yaml")
    try:
        declared = yaml.safe_load(Path(manifest).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ResolveError(f"{manifest}: {error}") from error
    if not isinstance(declared, dict):
        raise ResolveError(f"{manifest}: expected a mapping with name, version and entrypoint")
    for key in ("name", "version"):
        if declared.get(key) != policy[key]:
            raise ResolveError(
                f"{manifest}: {key} is {declared.get(key)!r}, but {policy['label']} says {policy[key]!r}; "
                "make them equal"
            )
    if not isinstance(declared.get("entrypoint"), str):
        raise ResolveError(f"{manifest}: entrypoint is missing; write `entrypoint: module:Class`")
    return {
        "name": policy["name"],
        "version": policy["version"],
        "entrypoint": declared["entrypoint"],
        "directory": policy["directory"],
        "digest": digest(policy["files"]),
    }


def engine_version(source: Path) -> str:
    """Return `__version__` of the engine's `__init__.py` without running it."""
    found = re.search(r'^__version__ = "([^"]+)"$', source.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise ResolveError(f'{source}: no line `__version__ = "…"`')
    return found[1]


def labels(engine: str, entries: list[dict[str, str]]) -> dict[str, str]:
    """Return the image's labels: the standard ones, the engine's version, and every policy with its digest (R-44)."""
    return {
        "org.opencontainers.image.title": "policy-engine",
        "org.opencontainers.image.description": "Envoy ext_proc policy engine",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.version": engine,
        "policy-engine.version": engine,
    } | {f"policy-engine.policy.{policy['name']}.{policy['version']}": policy["digest"] for policy in entries}


def main(chosen: Path, registry: Path, labels_file: Path, tags: Path) -> int:
    """Write the three outputs; returns the exit status."""
    request = json.loads(chosen.read_text())
    mistakes, entries = [], []
    for policy in request["policies"]:
        try:
            entries.append(entry(policy))
        except ResolveError as error:
            mistakes.append(str(error))
    try:
        version = engine_version(Path(request["engine"]))
    except ResolveError as error:
        mistakes.append(str(error))
    if mistakes:
        print(*mistakes, sep="\n", file=sys.stderr)
        return 1
    registry.write_text(json.dumps(entries, indent=1) + "\n")
    labels_file.write_text("".join(f"{key}={value}\n" for key, value in labels(version, entries).items()))
    tags.write_text(f"{request['repository']}:{version}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
