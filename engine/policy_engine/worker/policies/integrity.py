"""Holds code on disk against the digests that the builder wrote of it: policies, shared libraries, the engine (R-47).

A separate module because it must not import what it judges: it reads files, and runs before a policy's first line does.
What Python would really run counts, so bytecode is compiled anew from its source and compared: images have bytecode
that is never checked against the source when it is imported (PEP 552).
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import marshal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import policy_engine
from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.documents.plain_file import read_plain_file

BUILD_INFORMATION = "build-info.json"
"""What the builder writes beside the registry (builder/policy_builder/describe/generate.py)."""

MAX_DOCUMENT = 64 << 20
MOST_SHOWN = 5
"""Bytecode files that are named for one part."""

_UNHASHED = frozenset({"__pycache__", ".pytest_cache", ".hypothesis", ".mypy_cache", ".ruff_cache"})
_BYTECODE = (".pyc", ".pyo")
_HEADER = 16
_ALLOWED = "the code that the registry describes; or policies.verify: report, which runs this and says so everywhere"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of what runs. `kind` is engine, library or policy; `reviewed` the digest that the builder wrote.

    `digest` is that of the files on disk, empty when there are none. `problems` are sentences without a subject.
    """

    kind: str
    name: str
    directory: Path
    reviewed: str
    digest: str
    problems: tuple[str, ...]

    @property
    def title(self) -> str:
        """How people call it: `policy set-header v1.0.0`, `engine`."""
        return f"{self.kind} {self.name}".rstrip()

    def findings(self) -> Iterator[str]:
        """Yield each way in which it is not what was reviewed."""
        yield from (f"{self.title} {problem}" for problem in self.problems)


@dataclass(frozen=True, slots=True)
class Verification:
    """What a comparison came to. `unknown` says why there was nothing to compare with; empty where there was."""

    parts: tuple[Part, ...] = ()
    unknown: str = ""

    @property
    def findings(self) -> tuple[str, ...]:
        """Everything that is not what was reviewed."""
        return tuple(finding for part in self.parts for finding in part.findings())

    @property
    def state(self) -> str:
        """`verified`, `changed`, or `unknown`."""
        if self.findings:
            return "changed"
        return "verified" if self.parts and not self.unknown else "unknown"

    def diagnostics(self) -> list[Diagnostic]:
        """Return what keeps an engine that is strict from starting."""
        found = [
            Diagnostic(str(part.directory), finding, allowed=_ALLOWED, rule=Rule.NOT_REVIEWED)
            for part in self.parts
            for finding in part.findings()
        ]
        if self.unknown:
            found.append(Diagnostic("policies", self.unknown, allowed=_ALLOWED, rule=Rule.NOT_REVIEWED))
        return found


def verify(policies: Path | None, *, engine: bool = True, policy: str = "") -> Verification:
    """Compare what is on disk with the registry at `policies`, and with the build information beside it.

    Without `engine` its own files are left out, for a process that runs them already; with `policy`, its name and
    version, all other policies. A registry that cannot be read is not reported here: the loader does.
    """
    if policies is None:
        return Verification()
    if policies.is_dir():
        return Verification(unknown=f"{policies} is a directory of policies that no registry describes")
    try:
        registry = json.loads(read_plain_file(policies, MAX_DOCUMENT))
        entries = [one for one in registry if isinstance(one, dict)]
    except (OSError, ValueError, RecursionError, TypeError):
        return Verification(unknown=f"{policies} cannot be read as a registry")
    parts = [
        _part(
            "policy",
            f"{entry.get('name')} {entry.get('version')}",
            policies.parent / str(entry.get("directory")),
            str(entry.get("digest")),
        )
        for entry in entries
        if not policy or policy == f"{entry.get('name')} {entry.get('version')}"
    ]
    information = _information(policies.parent / BUILD_INFORMATION)
    if information is None:
        return Verification(tuple(parts), f"{policies.parent} has no {BUILD_INFORMATION} to hold the engine against")
    installed = Path(policy_engine.__file__).resolve().parent
    listed = information.get("libraries")
    for library in listed if isinstance(listed, list) else ():
        name = str(library.get("name")) if isinstance(library, dict) else ""
        if name.isidentifier():
            directory = installed.parent / name
            parts.append(_part("library", name, directory, str(library.get("digest")), f"{name}/"))
    described = information.get("engine")
    if engine:
        reviewed = str(described.get("digest")) if isinstance(described, dict) else ""
        parts.append(_part("engine", "", installed, reviewed, f"{installed.name}/"))
    return Verification(tuple(parts))


def directory_digest(directory: Path, prefix: str = "") -> str:
    """Return `sha256:…` over the names, each after `prefix`, and contents of every file in `directory`.

    Caches are left out. A link to a directory counts by where it leads: what lies behind it can be imported as well.
    """
    total = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if path.is_file() and _UNHASHED.isdisjoint(relative.parts) and path.suffix not in _BYTECODE:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.is_symlink() and path.is_dir():
            content = f"-> {path.readlink()}"
        else:
            continue
        total.update(f"{prefix}{relative.as_posix()}\0{content}\n".encode(errors="surrogateescape"))
    return f"sha256:{total.hexdigest()}"


def foreign_bytecode(directory: Path) -> Iterator[str]:
    """Yield the name and the fault of each bytecode file that Python would use and that is not its source compiled."""
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if path.suffix == ".py" and path.is_file():
            cached = Path(importlib.util.cache_from_source(str(path)))
            if cached.is_file() and not _comes_from(cached, path):
                yield f"{cached.relative_to(directory)}, which does not come from {relative}"
        elif path.suffix in _BYTECODE and path.parent.name != "__pycache__":
            yield f"{relative}, which has no source beside it that it comes from"


def _part(kind: str, name: str, directory: Path, reviewed: str, prefix: str = "") -> Part:
    try:
        if not directory.is_dir():
            return Part(kind, name, directory, reviewed, "", ("is not there",))
        digest = directory_digest(directory, prefix)
        problems = []
        if digest != reviewed:
            problems.append(f"is not what was reviewed: its files have {digest}, the registry has {reviewed}")
        bytecode = list(foreign_bytecode(directory))
        problems += [f"has bytecode that was not reviewed: {one}" for one in bytecode[:MOST_SHOWN]]
        if len(bytecode) > MOST_SHOWN:
            problems.append(f"has {len(bytecode) - MOST_SHOWN} more files of bytecode that was not reviewed")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Part(kind, name, directory, reviewed, "", (f"cannot be read: {reason}",))
    return Part(kind, name, directory, reviewed, digest, tuple(problems))


def _comes_from(cached: Path, source: Path) -> bool:
    """Return whether Python, importing `source`, would run just that: by `cached`, or because it passes that over."""
    content, text = cached.read_bytes(), source.read_bytes()
    if content[:4] != importlib.util.MAGIC_NUMBER or len(content) < _HEADER:
        return True
    flags = int.from_bytes(content[4:8], "little")
    if flags == 0:  # valid while time and size are those of the source
        status = source.stat()
        stamp = (int(status.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little")
        if content[8:_HEADER] != stamp + (status.st_size & 0xFFFFFFFF).to_bytes(4, "little"):
            return True
    elif flags & 0b10 and content[8:_HEADER] != importlib.util.source_hash(text):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = compile(text, str(source), "exec", dont_inherit=True)
        if content[_HEADER:] == marshal.dumps(compiled):
            return True
        # The same code may be written in several ways, so bytes that differ are compared as what they stand for.
        stream = io.BytesIO(content[_HEADER:])
        return marshal.load(stream) == compiled and not stream.read()  # noqa: S302 - what an import would read
    except (SyntaxError, ValueError, EOFError, TypeError, RecursionError, MemoryError):
        return False


def _information(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(read_plain_file(path, MAX_DOCUMENT))
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
