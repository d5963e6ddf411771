"""Follows the configuration directory: what is valid is built and offered, what is not is refused and remembered.

A separate module because it is the only place with the order of things: read, check all, build, offer; and a refused
directory leaves everything as it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from policy_control_plane.model_reader import LoadedModel, ModelReader
from policy_control_plane.resources import Snapshot, snapshot_version
from policy_control_plane.snapshot_builder import SnapshotBuilder
from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.documents.secret_references import SecretSource
from policy_engine.limits import BODY_LIMIT, FILE_SETTLE_SECONDS
from policy_engine.settings.model import Settings
from policy_engine.sources.chain_file import ChainFiles, is_chain_file_name, read_chain_files, with_checksums
from policy_engine.sources.file_watch import Settled, watch
from policy_engine.sources.validate import chain_reader
from policy_engine.worker.policies.construction import off_loop
from policy_engine.worker.policies.registry import Registry

logger = logging.getLogger(__name__)

_NOWHERE = Path("/nonexistent")


def model_reader(registry: Registry | None, body_limit: int = BODY_LIMIT) -> ModelReader:
    """Return a reader that checks chains as an engine with this `body_limit` (bytes) would, as far as possible here.

    Secrets are the engines': here they are neither there nor wanted (R-24). Without a registry, which policies there
    are is the engines' to judge too.
    """
    left = {Rule.SECRET} if registry is not None else {Rule.SECRET, Rule.UNKNOWN_POLICY, Rule.UNKNOWN_VERSION}
    no_secrets = SecretSource(environ={}, directories=(_NOWHERE,))
    settings = Settings(body_limit=body_limit)
    return ModelReader(chain_reader(registry or Registry(), settings, lambda: no_secrets), frozenset(left))


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why the directory's present content is not in use; `time` is in seconds since the epoch."""

    time: float
    diagnostics: tuple[Diagnostic, ...]


class Configuration:
    """The configuration directory. `offer` is called with every new valid snapshot.

    A file that may be half written is not read before it has been left alone for `settle` seconds; with `end_marker` it
    has to end with one too.
    """

    def __init__(
        self,
        directory: Path,
        reader: ModelReader,
        builder: SnapshotBuilder,
        offer: Callable[[Snapshot], None],
        *,
        settle: float = FILE_SETTLE_SECONDS,
        end_marker: bool = False,
    ) -> None:
        self.directory = directory
        self._reader = reader
        self._builder = builder
        self._offer = offer
        self._settle = settle
        self._end_marker = end_marker
        self._content = ""
        self.version = ""
        self.loaded: float | None = None
        self.rejection: Rejection | None = None
        self.rejections = 0

    async def run(self) -> None:
        """Load, and load again after every settled change, until cancelled."""
        changes = watch(lambda: with_checksums(self.directory), self._settle, of_interest=is_chain_file_name)
        async with aclosing(changes):
            async for moment in changes:
                await self._load(moment)

    async def _load(self, moment: Settled) -> None:
        """Load once; nothing happens when the content is what was loaded last, or is being written."""
        files = await off_loop(read_chain_files, (self.directory,), end_marker=self._end_marker)
        content = files.content_hash()
        if content == self._content or not await off_loop(moment.still):
            return
        self._content = content
        loaded, snapshot = await off_loop(self._build, files)
        if snapshot is None:
            self.rejections += 1
            self.rejection = Rejection(time.time(), loaded.diagnostics)
            findings = "\n".join(str(one) for one in loaded.diagnostics)
            logger.error("%s refused, %s stays:\n%s", self.directory, self.version or "nothing", findings)
            return
        for warning in loaded.diagnostics:
            logger.warning("%s", warning)
        self.rejection = None
        self.version, self.loaded = snapshot_version(snapshot), time.time()
        logger.info("%s is valid: snapshot %s", self.directory, self.version)
        self._offer(snapshot)

    def _build(self, files: ChainFiles) -> tuple[LoadedModel, Snapshot | None]:
        loaded = self._reader.read(files)
        if loaded.model is None:
            return loaded, None
        return loaded, self._builder.build(loaded.model)
