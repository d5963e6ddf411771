"""Tells when policies on disk are no longer those that this engine loaded: chains are reloaded, code is not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from policy_engine.worker.policies.integrity import directory_digest
from policy_engine.worker.policies.loader import SHARED
from policy_engine.worker.policies.registry import MANIFEST_FILE, Registry

logger = logging.getLogger("policy_engine.supervisor")


class CodeOnDisk:
    """What lay at `policies` at the start, a registry's file or a directory; without it, nothing is compared."""

    def __init__(self, registry: Registry, policies: Path | None) -> None:
        tree = policies is not None and policies.is_dir()
        self._root = policies if tree or policies is None else policies.parent
        self._tree = tree
        known = registry.listing() if self._root is not None else ()
        self._loaded = {Path(one.source).absolute(): one.digest for one in known if one.source}
        if tree and self._root is not None and (self._root / SHARED).is_dir():
            self._loaded[(self._root / SHARED).absolute()] = directory_digest(self._root / SHARED)

    def changes(self) -> Iterator[str]:
        """Yield each directory, below that of all policies, that was changed, added or removed, and which of it."""
        if self._root is None:
            return
        root = self._root.absolute()
        new = {one.parent for one in root.glob(f"*/*/{MANIFEST_FILE}") if self._tree}
        for path in sorted(self._loaded.keys() | new):
            name = path.relative_to(root) if path.is_relative_to(root) else path
            if path not in self._loaded:
                yield f"{name} (new)"
            elif not path.is_dir():
                yield f"{name} (removed)"
            elif directory_digest(path) != self._loaded[path]:
                yield f"{name} (changed)"

    def tell(self) -> None:
        """Log what changed, if anything did."""
        try:
            changes = list(self.changes())
        except OSError as error:
            logger.warning("policies on disk cannot be compared with those that run: %s", error)
            return
        if changes:
            logger.warning(
                "policies on disk are not those of this engine's start, which reloads chains and no code; restart it "
                "to run them: %s",
                ", ".join(changes),
                extra={"event": "policies_changed", "problems": changes},
            )
