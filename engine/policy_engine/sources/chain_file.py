"""Chain files: which files a path stands for, and their reading as one configuration (R-20).

A separate module because the file watcher, the validator and the control plane must mean the same files by a path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from policy_engine.documents.diagnostics import Diagnostic, Findings, Rule, TooManyFindings
from policy_engine.documents.yaml_document import MAX_BYTES, read_document
from policy_engine.sources.chain_reader import ChainReader, LoadedChains

MAX_FILES = 10_000
MAX_TOTAL_BYTES = 64 << 20
"""Of all files together: they are read at once, and as YAML take some thirty times their size in memory."""
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class ChainFiles:
    """The content of every chain file, read once, and what could not be read."""

    contents: Mapping[Path, bytes]
    diagnostics: tuple[Diagnostic, ...]

    def content_hash(self) -> str:
        """Return a hash of names and contents: it stays the same when a file is merely touched."""
        digest = hashlib.sha256()
        for path, content in self.contents.items():
            digest.update(f"{path}\0{len(content)}\0".encode(errors="surrogateescape") + content)
        for diagnostic in self.diagnostics:
            digest.update(f"{diagnostic}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()


def find_chain_files(path: Path) -> list[Path]:
    """Return `path` itself, or the `*.yaml` and `*.yml` files directly in the directory `path`, sorted.

    Names that begin with a dot are passed over: editors, and Kubernetes' ConfigMap volumes (`..data`), keep theirs
    there. Raises OSError.
    """
    if not path.is_dir():
        return [path]
    names = sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES and not one.name.startswith("."))
    return [one for one in names if not one.is_dir()]


def read_chain_files(paths: Sequence[Path]) -> ChainFiles:
    """Read every chain file that `paths` (files or directories) stand for."""
    contents: dict[Path, bytes] = {}
    diagnostics: list[Diagnostic] = []
    total = 0
    for path in paths:
        try:
            files = find_chain_files(path)
        except OSError as error:
            diagnostics.append(_unreadable(path, error))
            continue
        if not files:
            reason = "the directory holds no chain file; for no routes, put a file with `routes: []` there"
            diagnostics.append(Diagnostic(str(path), reason, rule=Rule.UNREADABLE, allowed="*.yaml, *.yml"))
        if len(contents) + len(files) > MAX_FILES:
            diagnostics.append(Diagnostic(str(path), f"there are more than {MAX_FILES} files", rule=Rule.UNREADABLE))
            continue
        for file in files:
            try:
                contents[file] = _read(file)
            except OSError as error:
                diagnostics.append(_unreadable(file, error))
                continue
            total += len(contents[file])
            if total > MAX_TOTAL_BYTES:
                reason = f"the files up to this one are together larger than {MAX_TOTAL_BYTES >> 20} MiB"
                return ChainFiles({}, (*diagnostics, Diagnostic(str(file), reason, rule=Rule.UNREADABLE)))
    return ChainFiles(contents, tuple(diagnostics))


def load_chains(files: ChainFiles, reader: ChainReader) -> LoadedChains:
    """Return the chains in `files` as one configuration, or everything that is wrong with them."""
    documents = []
    diagnostics = Findings(files.diagnostics)
    with suppress(TooManyFindings):
        for path, content in files.contents.items():
            document, found = read_document(str(path), content)
            if document is not None:
                documents.append(document)
            diagnostics.extend(found)
    return reader.read_documents(documents, diagnostics)


def load_chain_paths(paths: Iterable[Path], reader: ChainReader) -> LoadedChains:
    """Read and check the chain files at `paths` (files or directories) as one configuration."""
    return load_chains(read_chain_files(tuple(paths)), reader)


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise OSError(0, "it is not a regular file")
    with path.open("rb") as file:
        # One byte more than is allowed is enough for the reader to say that it is too large.
        return file.read(MAX_BYTES + 1)


def _unreadable(path: Path, error: OSError) -> Diagnostic:
    return Diagnostic(str(path), f"cannot be read: {error.strerror or error}", rule=Rule.UNREADABLE)
