"""References to secrets in parameters, `${env:NAME}` and `${file:/path}`, resolved while a chain is loaded (R-24).

`${` begins a reference wherever it stands, and what is not one is refused: a misspelt reference that went through as
text would be a password that everybody who reads the file knows. `$${` stands for the text `${`.

Separate so that one place sees secrets in the clear, and remembers where they went and what must be struck
out of any message.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from policy_engine.documents.plain_file import read_plain_file
from policy_engine.documents.redaction import REDACTED, strike_out_pieces
from policy_engine.sdk.json_pointer import Path, format_pointer

MAX_SECRET_BYTES = 64 << 10
"""Largest secret file: keys and certificates fit, a device or a log does not."""

MAX_SECRETS_LENGTH = 1 << 20
"""Longest all secrets of one policy may be together, in characters: repeating a reference must not fill memory."""

REFERENCE_FORMS = "${env:NAME}, ${file:/absolute/path}, or $${ for the text ${"

_OPENING = re.compile(r"(\$?)\$\{(?:(env|file):([^{}]*)\})?")
_KIND = re.compile(r"\s*(env|file)\s*:?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_SHORTEST_LINE = 6
_DIGEST_KEY = secrets.token_bytes(32)


@dataclass(slots=True)
class SecretSource:
    """Where secrets come from; one load uses one, so that a file is read once and every place gets the same.

    `directories` limits `${file:…}` to files inside them (links followed), so that none allows no file; None allows
    every file the engine may read. `files` holds every allowed file asked for, found or not, with a digest of what was
    read: a change of one is a change of the configuration.
    """

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    directories: tuple[FilePath, ...] | None = None
    files: dict[FilePath, bytes] = field(default_factory=dict)
    _texts: dict[FilePath, str | _Missing] = field(default_factory=dict, repr=False)

    def lookup(self, kind: str, name: str) -> str:
        """Return the secret; raises SecretError, whose message holds nothing of it."""
        if kind == "env":
            return self._variable(name)
        path = FilePath(name)
        if not path.is_absolute() or ".." in path.parts or not name.isprintable():
            raise SecretError(f"${{file:{name!r:.100}}} must name an absolute path without '..' and control characters")
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
        # Before anything is asked of the file, and where it really is: what is outside is outside, there or not.
        real = FilePath(os.path.realpath(path))
        if self.directories is not None and not any(_is_inside(real, one) for one in self.directories):
            allowed = ", ".join(str(one) for one in self.directories) or "none; set secrets.directories"
            return _Missing(f"the secret file {path} is outside the directories for secrets ({allowed})")
        try:
            content = read_plain_file(real, MAX_SECRET_BYTES)
        except OSError as error:
            self.files[path] = _failed(error)
            return _Missing(f"the secret file {path} cannot be read: {error.strerror or type(error).__name__}")
        self.files[path] = _digest(content)
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
        return _digest(read_plain_file(path, MAX_SECRET_BYTES))
    except OSError as error:
        return _failed(error)


def _is_inside(real: FilePath, directory: FilePath) -> bool:
    return real.is_relative_to(os.path.realpath(directory))


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

    `pointers` are the JSON Pointers of values that hold a secret, `problems` the references that led nowhere, by path;
    those at the paths in `malformed` lead nowhere in any engine.
    """

    parameters: Any = field(default=None, repr=False)
    pointers: set[str] = field(default_factory=set)
    problems: list[tuple[Path, str]] = field(default_factory=list)
    malformed: set[Path] = field(default_factory=set)
    _secrets: set[str] = field(default_factory=set, repr=False)
    _length: int = 0

    def scrub(self, text: str) -> str:
        """Return `text` with every secret in it replaced by `***`, for messages written by others."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, REDACTED)
        return text

    def scrub_pieces(self, text: str) -> str:
        """Return `text` with every piece of a secret in it replaced too, as errors of parsers quote their input."""
        return strike_out_pieces(self.scrub(text), self._secrets)

    def refuse(self, path: Path, reason: str) -> None:
        """Note that what stands at `path` can be no reference; the reason holds nothing of it."""
        self.problems.append((path, reason))
        self.malformed.add(path)

    def text(self, value: str, path: Path, source: SecretSource) -> str:
        """Return `value`, which stands at `path`, with its references replaced."""
        found = False

        def replace(match: re.Match[str]) -> str:
            nonlocal found
            escaped, kind, name = match.groups()
            if escaped:
                return match[0][1:]
            if kind is None:
                self.refuse(path, _why_malformed(value[match.end() :]))
                return match[0]
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

        resolved = _OPENING.sub(replace, value)
        if found:
            self.pointers.add(format_pointer(path))
            self._secrets.update(_forms(resolved))
        return resolved


def resolve_secrets(parameters: Any, source: SecretSource) -> Resolution:
    """Return a copy of `parameters` in which references are replaced; `$${` stands for the text `${`."""
    resolution = Resolution()

    def resolve(value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            for name in value:
                if _holds_opening(name):
                    resolution.refuse((*path, name), "a key cannot hold a reference to a secret; only values can")
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
    return isinstance(value, str) and any(match[2] and not match[1] for match in _OPENING.finditer(value))


def _holds_opening(text: str) -> bool:
    return any(not match[1] for match in _OPENING.finditer(text))


def _why_malformed(rest: str) -> str:
    """Return what is wrong with what follows a `${`, without quoting it: it may be part of somebody's password."""
    inside, closed, _ = rest.partition("}")
    kind = _KIND.match(inside)
    if not closed:
        reason = "a reference that begins with ${ is not closed by }"
    elif "${" in inside:
        reason = "a reference to a secret stands inside another one"
    elif kind is not None:
        reason = f"a reference is not written ${{{kind[0]}…}}; did you mean ${{{kind[1].lower()}:…}}?"
    else:
        reason = "${…} is not a reference to a secret"
    return f"{reason}; allowed: {REFERENCE_FORMS}"


def _forms(secret: str) -> Iterable[str]:
    """The texts under which a secret may turn up in somebody's message: whole, quoted, or one line of many."""
    yield secret
    yield repr(secret)[1:-1]
    for line in secret.splitlines():
        if len(line) >= _SHORTEST_LINE:
            yield line
