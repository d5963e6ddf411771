"""What is in this engine: its version and every policy with version and digest (R-44, R-53)."""

from __future__ import annotations

import platform
from typing import Any

from policy_engine import __version__
from policy_engine.worker.registry import Registry


def build_info(registry: Registry) -> dict[str, Any]:
    """Return the build information as JSON data, policies sorted by name and version."""
    return {
        "engine": __version__,
        "python": platform.python_version(),
        "policies": [
            {
                "name": definition.name,
                "version": str(definition.version),
                "digest": definition.digest,
                "description": definition.description,
                "phases": sorted(phase.value for phase in definition.phases),
            }
            for definition in registry
        ],
    }
