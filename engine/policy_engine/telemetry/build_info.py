"""What is in this engine: its version, every policy with version and digest, and what they depend on (R-44, R-53)."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from policy_engine import __version__
from policy_engine.worker.policies.integrity import BUILD_INFORMATION, Verification
from policy_engine.worker.policies.manifest import manifest_face
from policy_engine.worker.policies.registry import MANIFEST_FILE, ListedPolicy, PolicyDefinition, Registry

_OF_THE_IMAGE = {"dependencies": list, "libraries": list, "debian": dict}


def build_info(
    registry: Registry, policies: Path | None = None, verification: Verification | None = None
) -> dict[str, Any]:
    """Return the build information as JSON data, policies sorted by name and version.

    `policies` is the registry file, or the directory, that they were loaded from. In an image, what the builder knew of
    it lies there: distributions with version, licence and who needs them, shared libraries, Debian packages. Elsewhere
    these keys are missing, since what a Python environment holds is not what was chosen. Digests are those of the code
    on disk; `verification` says how they compare with what was reviewed.
    """
    compared = verification or Verification()
    reviewed = {part.name: part.reviewed for part in compared.parts if part.kind == "policy"}
    engine = next((part for part in compared.parts if part.kind == "engine"), None)
    described = _described(policies) if policies is not None else {}
    packages = _packages(described)
    return {
        "engine": __version__,
        "python": platform.python_version(),
        "policies": [
            {
                "name": definition.name,
                "version": str(definition.version),
                "digest": definition.digest,
                "reviewed_digest": reviewed.get(str(definition)),
                **_face(definition),
                "package": packages.get(str(definition)),
            }
            for definition in registry.listing()
        ],
        "verification": {
            "state": compared.state,
            "unknown": compared.unknown,
            "findings": list(compared.findings),
            "engine": {"digest": engine.digest, "reviewed_digest": engine.reviewed} if engine is not None else None,
        },
    } | {key: described[key] for key, kind in _OF_THE_IMAGE.items() if isinstance(described.get(key), kind)}


def _face(policy: PolicyDefinition | ListedPolicy) -> dict[str, Any]:
    if isinstance(policy, ListedPolicy):
        return dict(manifest_face(policy.source / MANIFEST_FILE))
    return {"description": policy.description, "phases": sorted(policy.phases)}


def _described(policies: Path) -> dict[str, Any]:
    """Return what the builder wrote beside the policies of an image; nothing when there is no such file."""
    directory = policies if policies.is_dir() else policies.parent
    try:
        document = json.loads((directory / BUILD_INFORMATION).read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _packages(document: dict[str, Any]) -> dict[str, Any]:
    """Return the wheels that policies came in, by `name version`."""
    policies = document.get("policies")
    return {
        f"{one.get('name')} {one.get('version')}": one["package"]
        for one in (policies if isinstance(policies, list) else ())
        if isinstance(one, dict) and isinstance(one.get("package"), dict)
    }
