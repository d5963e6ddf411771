"""What kind of file a path is, by the file system and by its first bytes, before anything of it goes into an image.

A separate module because policies, libraries and configuration files are all copied from directories that may hold
links out of them, pipes that never end, compiled code, and keys.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path, PurePosixPath

MAX_CONFIGURATION = 1 << 20
"""Bytes of one configuration file."""

CONFIGURATION_TAKEN = "UTF-8 text of at most 1 MiB: YAML, JSON, certificates; every user of the image can read it"

_COMPILED = {
    b"\x7fELF": "compiled code (ELF)",
    b"MZ": "compiled code (Windows)",
    b"\xfe\xed\xfa\xce": "compiled code (Mach-O)",
    b"\xfe\xed\xfa\xcf": "compiled code (Mach-O)",
    b"\xce\xfa\xed\xfe": "compiled code (Mach-O)",
    b"\xcf\xfa\xed\xfe": "compiled code (Mach-O)",
    b"\xca\xfe\xba\xbe": "compiled code (Mach-O or Java)",
    b"!<arch>\n": "an archive of compiled code",
    b"\0asm": "compiled code (WebAssembly)",
}
_COMPILED_NAMES = re.compile(r"\.(so|pyd|dylib|dll|o|a|lib|exe|pyc|pyo|wasm)(\.[0-9]+)*\Z", re.IGNORECASE)
_KEY = re.compile(
    rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----|^PuTTY-User-Key-File-|\bAGE-SECRET-KEY-1", re.MULTILINE
)
_JWK = re.compile(rb'"(d|k)"\s*:\s*"[A-Za-z0-9_-]{16,}"')
_LOGIN = re.compile(rb'"(auth|identitytoken|registrytoken)"\s*:\s*"[^"]')
_SECRET_NAMES = re.compile(
    r"id_(rsa|dsa|ecdsa|ed25519)|\.?(netrc|pgpass|htpasswd|pypirc|npmrc)|\.env(\..*)?|credentials|shadow|.*\.(key|p12|pfx|jks|keystore|ppk|kdbx|env)",
    re.IGNORECASE,
)


def irregularity(path: Path, *, follow_links: bool = False) -> str:
    """Return why `path` is neither a file nor a directory that can be copied; empty when it is one."""
    if not path.name.isprintable():
        return "has a name that cannot be printed"
    try:
        status = path.stat() if follow_links else path.lstat()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if stat.S_ISLNK(status.st_mode):
        return "is not a regular file: it is a link, and what it leads to does not belong here"
    if stat.S_ISDIR(status.st_mode):
        return "" if os.access(path, os.R_OK | os.X_OK) else "cannot be read: Permission denied"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file: it is a pipe, a socket or a device"
    return "" if os.access(path, os.R_OK) else "cannot be read: Permission denied"


def compiled_code(name: str, path: Path) -> str:
    """Return what kind of compiled code the file is, by its first bytes and its name; empty when it is none."""
    with path.open("rb") as file:
        beginning = file.read(8)
    found = next((what for magic, what in _COMPILED.items() if beginning.startswith(magic)), "")
    suffixes = "".join(PurePosixPath(name).suffixes[-3:])
    if found == _COMPILED[b"MZ"] and not _COMPILED_NAMES.search(suffixes) and b"\0" not in beginning:
        return ""  # text that begins so
    return found or ("compiled code by its name" if _COMPILED_NAMES.search(suffixes) else "")


def unfit_configuration(path: Path, base: Path | None = None) -> str:
    """Return why `path` is no file for /etc/policy-engine of an image; empty when it is one.

    With `base` a link must stay within that directory; without it links are Bazel's.

    Images are given to others, and their layers stay readable: what looks like a secret is refused.
    """
    wrong = irregularity(path, follow_links=True)
    if wrong or path.is_dir():
        return wrong or "is a directory"
    if base is not None and path.is_symlink() and not path.resolve().is_relative_to(base.resolve()):
        return "is a link that leads out of the manifest's directory"
    with path.open("rb") as file:
        content = file.read(MAX_CONFIGURATION + 1)
    if len(content) > MAX_CONFIGURATION:
        return f"is larger than {MAX_CONFIGURATION >> 20} MiB"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "is not text"
    if "\0" in text or text.startswith("#!"):
        return "is a program" if text.startswith("#!") else "is not text"
    if _KEY.search(content) or (b'"kty"' in content and _JWK.search(content)):
        return f"holds a private key{_MOUNT}"
    if _LOGIN.search(content):
        return f"holds the login for a registry{_MOUNT}"
    if _SECRET_NAMES.fullmatch(path.name):
        return f"has the name of a file of secrets{_MOUNT}"
    return ""


_MOUNT = ", which whoever has the image could read; mount it where the engine runs, and name it with ${file:…}"
