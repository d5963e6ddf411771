"""References to secrets in parameters, `${env:NAME}` and `${file:/path}`, resolved while a chain is loaded (R-24).

Separate so that one place sees secrets in the clear, and remembers where they went and what must be struck
out of any message.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from policy_engine.documents.redaction import REDACTED
from policy_engine.sdk.json_pointer import Path, format_pointer

MAX_SECRET_BYTES = 64 << 10
"""Largest secret file: keys and certificates fit, a device or a log does not."""

MAX_SECRETS_LENGTH = 1 << 20
"""Longest all secrets of one policy may be together, in characters: repeating a reference must not fill memory."""

_REFERENCE = re.compile(r"(\$?)\$\{(env|file):([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_SHORTEST_LINE = 6
_DIGEST_KEY = secrets.token_bytes(32)


@dataclass(slots=True)
class SecretSource:
    """Where secrets come from; one load uses one, so that a file is read once and every place gets the same.

    `directories` limits `${file:…}` to files inside them (links followed); empty allows every file the engine may
    read. `files` holds every file asked for, found or not, with a digest of what was read: a change of one is a change
    of the configuration.
    """

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    directories: tuple[FilePath, ...] = ()
    files: dict[FilePath, bytes] = field(default_factory=dict)
    _texts: dict[FilePath, str | _Missing] = field(default_factory=dict, repr=False)

    def lookup(self, kind: str, name: str) -> str:
        """Return the secret; raises SecretError, whose message holds nothing of it."""
        if kind == "env":
            return self._variable(name)
        path = FilePath(name)
        if not path.is_absolute() or ".." in path.parts:
            raise SecretError(f"${{file:{name}}} must name an absolute path without '..'")
        if path not in self._texts:
            self._texts[path] = self._read(path)
        text = self._texts[path]
        if isinstance(text, _Missing):
            raise SecretError(text.reason)
        return text

    def _variable(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise SecretError(f"${{env:{name}}} does not name an environment variable")
        value = self.environ.get(name)
        if value is None:
            raise SecretError(f"the environment variable {name} is not set")
        if not value:
            raise SecretError(f"the environment variable {name} is empty")
        return value

    def _read(self, path: FilePath) -> str | _Missing:
        try:
            content = _content(path)
        except OSError as error:
            self.files[path] = _failed(error)
            return _Missing(f"the secret file {path} cannot be read: {error.strerror or type(error).__name__}")
        self.files[path] = _digest(content)
        if self.directories and not any(path.resolve().is_relative_to(one.resolve()) for one in self.directories):
            allowed = ", ".join(str(one) for one in self.directories)
            return _Missing(f"the secret file {path} is outside the directories for secrets ({allowed})")
        if len(content) > MAX_SECRET_BYTES:
            return _Missing(f"the secret file {path} is larger than {MAX_SECRET_BYTES >> 10} KiB")
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return _Missing(f"the secret file {path} is not UTF-8 text")
        # Editors and `echo` end a file with a newline that is not part of the secret.
        text = text.removesuffix("\n").removesuffix("\r")
        return text or _Missing(f"the secret file {path} is empty")


def digest_secret_file(path: FilePath) -> bytes:
    """Return what `SecretSource.files` would hold for `path` now."""
    try:
        return _digest(_content(path))
    except OSError as error:
        return _failed(error)


def _content(path: FilePath) -> bytes:
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file")
    with path.open("rb") as file:
        return file.read(MAX_SECRET_BYTES + 1)


def _digest(content: bytes) -> bytes:
    # Keyed, because a plain hash of a weak secret can be guessed from.
    return hashlib.blake2b(content, key=_DIGEST_KEY, digest_size=16).digest()


def _failed(error: OSError) -> bytes:
    return str(error.errno).encode()


class SecretError(ValueError):
    """A reference to a secret cannot be resolved."""


@dataclass(frozen=True, slots=True)
class _Missing:
    reason: str


@dataclass(slots=True)
class Resolution:
    """Parameters with their secrets in place.

    `pointers` are the JSON Pointers of values that hold a secret, `problems` the references that led nowhere, by path.
    """

    parameters: Any = field(default=None, repr=False)
    pointers: set[str] = field(default_factory=set)
    problems: list[tuple[Path, str]] = field(default_factory=list)
    _secrets: set[str] = field(default_factory=set, repr=False)
    _length: int = 0

    def scrub(self, text: str) -> str:
        """Return `text` with every secret in it replaced by `***`, for messages written by others."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, REDACTED)
        return text

    def text(self, value: str, path: Path, source: SecretSource) -> str:
        """Return `value`, which stands at `path`, with its references replaced."""
        found = False

        def replace(match: re.Match[str]) -> str:
            nonlocal found
            escaped, kind, name = match.groups()
            if escaped:
                return match[0][1:]
            try:
                secret = source.lookup(kind, name)
                self._length += len(secret)
                if self._length > MAX_SECRETS_LENGTH:
                    raise SecretError(f"secrets of one policy are longer than {MAX_SECRETS_LENGTH} characters in all")
            except SecretError as error:
                self.problems.append((path, str(error)))
                return match[0]
            found = True
            self._secrets.update(_forms(secret))
            return secret

        resolved = _REFERENCE.sub(replace, value)
        if found:
            self.pointers.add(format_pointer(path))
            self._secrets.update(_forms(resolved))
        return resolved


def resolve_secrets(parameters: Any, source: SecretSource) -> Resolution:
    """Return a copy of `parameters` in which references are replaced; `$${env:X}` stands for the text `${env:X}`."""
    resolution = Resolution()

    def resolve(value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return {name: resolve(item, (*path, name)) for name, item in value.items()}
        if isinstance(value, list):
            return [resolve(item, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, str) and "${" in value:
            return resolution.text(value, path, source)
        return value

    resolution.parameters = resolve(parameters, ())
    return resolution


def holds_reference(value: object) -> bool:
    """Return whether `value` is a text with a reference to a secret in it."""
    return isinstance(value, str) and any(not match[1] for match in _REFERENCE.finditer(value))


def _forms(secret: str) -> Iterable[str]:
    """The texts under which a secret may turn up in somebody's message: whole, quoted, or one line of many."""
    yield secret
    yield repr(secret)[1:-1]
    for line in secret.splitlines():
        if len(line) >= _SHORTEST_LINE:
            yield line
