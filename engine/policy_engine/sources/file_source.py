"""File mode: chain files loaded, applied, and loaded again when they change, with the last good chains kept (R-20).

A separate module because it is the only place with the order of things: read once, check all, apply, and report; a
refused change leaves everything as it is.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.documents.error_text import error_text
from policy_engine.documents.secret_references import digest_secret_file
from policy_engine.limits import FILE_SETTLE_SECONDS
from policy_engine.sources.chain_file import (
    ChainFiles,
    is_chain_file_name,
    load_chains,
    read_chain_files,
    with_checksums,
)
from policy_engine.sources.chain_reader import ChainReader, LoadedChains
from policy_engine.sources.file_watch import Settled, settled, watch
from policy_engine.sources.source import Apply, LoadReport, Report, why_not_applied
from policy_engine.worker.chains.spec import ChainsSpec
from policy_engine.worker.policies.construction import off_loop


class _WrittenMeanwhile(Exception):
    """What was read may be half of something: somebody wrote to one of the files since they had settled."""


@dataclass(slots=True)
class FileSource:
    """Keeps the chains in `path` (a file or a directory of files) in effect.

    `reader` holds the registry. `apply` is called for every valid change, one at a time, and `report` after every
    load, accepted or not. `active` are the chains in effect, `last` is the report of the latest load.

    A file that may be half written is not read before it has been left alone for `settle` seconds; with `end_marker` it
    has to end with one too.
    """

    path: Path
    reader: ChainReader
    apply: Apply
    report: Report
    settle: float = FILE_SETTLE_SECONDS
    end_marker: bool = False
    active: ChainsSpec | None = None
    last: LoadReport | None = None
    _secret_files: Mapping[Path, bytes] = field(default_factory=dict)
    _content: str = ""
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def load(self, *, force: bool = False) -> LoadReport | None:
        """Load once; None when the content is what was loaded last. `force` loads the same content again (SIGHUP)."""
        while True:
            moment = await settled(self._watched, self.settle, is_chain_file_name)
            with suppress(_WrittenMeanwhile):
                return await self._load(moment, force)

    async def run(self) -> None:
        """Load, and load again after every settled change, until cancelled."""
        async with aclosing(watch(self._watched, self.settle, of_interest=is_chain_file_name)) as changes:
            async for moment in changes:
                with suppress(_WrittenMeanwhile):  # the watch sees that too, and tells when it is over
                    await self._load(moment)

    async def change_reader(self, reader: ChainReader, apply: Apply) -> LoadReport:
        """Load what is there with another reader and apply it by `apply`; when both succeed, go on with that reader.

        Else nothing changes, and nothing is reported but to the caller.
        """
        async with self._lock:
            files = await off_loop(read_chain_files, (self.path,), end_marker=self.end_marker)
            loaded = await off_loop(self._read, files, reader)
            report = await self._use(loaded, apply)
            if report.accepted:
                self.reader = reader
                self._secret_files = loaded.secret_files
                self._content = _content_hash(files, loaded.secret_files)
                self.last = report
                self.report(report)
            return report

    async def _load(self, moment: Settled, force: bool = False) -> LoadReport | None:
        async with self._lock:
            files = await off_loop(read_chain_files, (self.path,), end_marker=self.end_marker)
            if not force and self._content == await off_loop(self._content_hash, files):
                return None
            loaded = await off_loop(self._read, files, self.reader, moment)
            self._secret_files = loaded.secret_files
            self._content = _content_hash(files, loaded.secret_files)
            self.last = await self._use(loaded, self.apply)
            self.report(self.last)
            return self.last

    def _read(self, files: ChainFiles, reader: ChainReader, moment: Settled | None = None) -> LoadedChains:
        """Read `files` and the secrets they name. Raises _WrittenMeanwhile unless all is as it was at `moment`.

        What is written while policies are tried out is for the next load: else files that change all the time would
        never be used.
        """

        def once_read() -> None:
            if moment is not None and not moment.still():
                raise _WrittenMeanwhile

        try:
            return load_chains(files, reader, once_read)
        except _WrittenMeanwhile:
            raise
        except Exception as error:
            # A fault of this engine's own must not end the watching: the file that shows it will be mended. The
            # message is left out, as nobody knows what is in it.
            reason = f"could not be read, for a fault in the engine: {error_text(error, message=False)}"
            return LoadedChains(None, (Diagnostic(str(self.path), reason, rule=Rule.UNREADABLE),), self._secret_files)

    def _watched(self) -> tuple[Path, ...]:
        return (*with_checksums(self.path), *sorted(self._secret_files))

    def _content_hash(self, files: ChainFiles) -> str:
        return _content_hash(files, {path: digest_secret_file(path) for path in self._secret_files})

    async def _use(self, loaded: LoadedChains, apply: Apply) -> LoadReport:
        if loaded.chains is None:
            return LoadReport(False, self._content, loaded.diagnostics, None)
        try:
            await apply(loaded.chains)
        except Exception as error:
            found = Diagnostic(str(self.path), why_not_applied(error, loaded.chains), rule=Rule.APPLY)
            return LoadReport(False, self._content, (*loaded.diagnostics, found), None)
        self.active = loaded.chains
        return LoadReport(True, self._content, loaded.diagnostics, loaded.chains)


def _content_hash(files: ChainFiles, secret_files: Mapping[Path, bytes]) -> str:
    content = hashlib.sha256(files.content_hash().encode())
    for path, digest in sorted(secret_files.items()):
        content.update(f"{path}\0".encode(errors="surrogateescape") + digest)
    return content.hexdigest()
