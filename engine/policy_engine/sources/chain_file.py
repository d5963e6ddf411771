"""Chain files: which files a path stands for, and their reading as one configuration (R-20).

A separate module because the file watcher, the validator and the control plane must mean the same files by a path.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from policy_engine.documents.diagnostics import Diagnostic, Findings, Rule, TooManyFindings
from policy_engine.documents.plain_file import read_plain_file
from policy_engine.documents.yaml_document import MAX_BYTES, read_document
from policy_engine.sources.chain_reader import ChainReader, LoadedChains

MAX_FILES = 10_000
MAX_TOTAL_BYTES = 64 << 20
"""Of all files together: they are read at once, and as YAML take some thirty times their size in memory."""
END_MARKER = b"..."
"""YAML's own mark of a document's end (YAML 1.2.2, 9.1.2), the last line of a file that says it is complete."""
_SUFFIXES = (".yaml", ".yml")
_CHECKSUM_SUFFIX = ".sha256"
_CHECKSUM = re.compile(rb"([0-9A-Fa-f]{64})(\s.*)?", re.DOTALL)
_MAX_CHECKSUM_BYTES = 4096


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


def is_chain_file_name(name: str) -> bool:
    """Return whether a file of this name in a directory matters: a chain file, or the checksum of one."""
    return name.removesuffix(_CHECKSUM_SUFFIX).endswith(_SUFFIXES)


def with_checksums(path: Path) -> tuple[Path, ...]:
    """Return what to watch for changes of the chain file, or the directory of chain files, at `path`."""
    return (path,) if path.is_dir() else (path, _checksum_file(path))


def read_chain_files(paths: Sequence[Path], *, end_marker: bool = False) -> ChainFiles:
    """Read every chain file that `paths` (files or directories) stand for.

    A file that does not match the checksum in `FILE.sha256` beside it is half written or not meant, and is reported as
    unreadable; so is, with `end_marker`, one whose last line is not `...`.
    """
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
                contents[file] = read_plain_file(file, MAX_BYTES)
                reason = _why_incomplete(file, contents[file], end_marker)
            except OSError as error:
                diagnostics.append(_unreadable(file, error))
                continue
            if reason:
                diagnostics.append(Diagnostic(str(file), reason, rule=Rule.UNREADABLE))
            total += len(contents[file])
            if total > MAX_TOTAL_BYTES:
                reason = f"the files up to this one are together larger than {MAX_TOTAL_BYTES >> 20} MiB"
                return ChainFiles({}, (*diagnostics, Diagnostic(str(file), reason, rule=Rule.UNREADABLE)))
    return ChainFiles(contents, tuple(diagnostics))


def load_chains(files: ChainFiles, reader: ChainReader, once_read: Callable[[], None] = lambda: None) -> LoadedChains:
    """Return the chains in `files` as one configuration, or everything that is wrong with them.

    `once_read`: see `ChainReader.read_documents`.
    """
    documents = []
    diagnostics = Findings(files.diagnostics)
    with suppress(TooManyFindings):
        for path, content in files.contents.items():
            document, found = read_document(str(path), content)
            if document is not None:
                documents.append(document)
            diagnostics.extend(found)
    return reader.read_documents(documents, diagnostics, once_read)


def load_chain_paths(paths: Iterable[Path], reader: ChainReader, *, end_marker: bool = False) -> LoadedChains:
    """Read and check the chain files at `paths` (files or directories) as one configuration."""
    return load_chains(read_chain_files(tuple(paths), end_marker=end_marker), reader)


def _why_incomplete(path: Path, content: bytes, end_marker: bool) -> str:
    if end_marker and content.rstrip().rpartition(b"\n")[2] != END_MARKER:
        return f"is not complete: its last line is not {END_MARKER.decode()!r}, which chain_files.end_marker asks for"
    checksum_file = _checksum_file(path)
    try:
        text = read_plain_file(checksum_file, _MAX_CHECKSUM_BYTES)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"its checksum {checksum_file} cannot be read: {error.strerror or error}"
    found = _CHECKSUM.fullmatch(text)
    if found is None:
        return f"its checksum {checksum_file} is not one: 64 hexadecimal digits, as sha256sum writes them"
    if found[1].decode().lower() != hashlib.sha256(content).hexdigest():
        return f"does not match its checksum {checksum_file}: one of the two is old, or not completely written"
    return ""


def _checksum_file(path: Path) -> Path:
    return path.with_name(path.name + _CHECKSUM_SUFFIX)


def _unreadable(path: Path, error: OSError) -> Diagnostic:
    return Diagnostic(str(path), f"cannot be read: {error.strerror or error}", rule=Rule.UNREADABLE)
