"""What is known of an image once its manifest is found good, the base of every document about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from policy_builder.discover.debian import DebianLock
from policy_builder.discover.digests import files_digest
from policy_builder.discover.policy_source import PolicySource
from policy_builder.validate.resolution import Resolution


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the documents about an image are made from.

    `policies` are sorted by name and version, and have a manifest. `engine_licence` is the text of the engine's.
    """

    engine_version: str
    engine_files: Mapping[str, Path] = field(repr=False)
    policies: tuple[PolicySource, ...]
    resolution: Resolution
    debian: DebianLock
    engine_licence: Path

    def digests(self) -> dict[str, str]:
        """Return the digest of every policy by `name version`."""
        return {str(policy): files_digest(policy.files) for policy in self.policies}
