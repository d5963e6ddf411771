"""Unpacks a wheel as an installer lays it out, after its listing has been judged as a whole.

A separate module because a wheel comes from a stranger: what it may not do (grow without bound, leave its directory,
bring what is no file, have two files where some machine has one) is decided before its first byte is written.
"""

from __future__ import annotations

import errno
import lzma
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MAX_FILES = 20_000
MAX_BYTES = 1 << 30
"""Of what a wheel unpacks to."""

FREE_BYTES = 64 << 20
MAX_RATIO = 100
"""Above FREE_BYTES a wheel may unpack to so many times its own size: compiled code and data come to about 10."""

_LONGEST_NAME = 255
_PARTS = ("purelib", "platlib")
_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError)


class WheelError(Exception):
    """A wheel that is not unpacked; the message says what is wrong with it, without its name."""


def unpack_wheel(wheel: Path, target: Path, *, executables: bool = False) -> None:
    """Write the purelib and platlib parts of `wheel` (PEP 427) into the directory `target`. Raises WheelError.

    Scripts, headers and data are left out: nothing in an image starts them. With `executables`, files keep the mode
    that lets them be started.
    """
    target.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, member in _judged(archive, wheel.stat().st_size).items():
                place = target / name
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, place.open("xb") as file:
                    shutil.copyfileobj(source, file)
                if executables and member.external_attr >> 16 & 0o111:
                    place.chmod(0o755)
    except (*_BROKEN, OSError) as error:
        # Without a number it is bzip2's way to refuse its input; with EINVAL a listing leads before the file's begin.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of the file system
        raise WheelError(f"is not a wheel: {str(error)[:200] or type(error).__name__}") from None


def _judged(archive: zipfile.ZipFile, packed: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members to unpack by the names that they get. Raises WheelError."""
    members = archive.infolist()
    if len(members) > MAX_FILES:
        raise WheelError(f"has {len(members)} files, more than {MAX_FILES}")
    # zipfile gives no more bytes of a member than its listing says, so the sum holds.
    size = sum(member.file_size for member in members)
    if size > MAX_BYTES:
        raise WheelError(f"unpacks to {size >> 20} MiB, more than {MAX_BYTES >> 20} MiB")
    if size > max(FREE_BYTES, packed * MAX_RATIO):
        raise WheelError(f"unpacks to {size >> 20} MiB, more than {MAX_RATIO} times its own size")
    found: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        _check_kind(member)
        name = _installed_name(_checked_name(member))
        if name is None or member.is_dir():
            continue
        if name in found:
            raise WheelError(f"has {_shown(name)} twice")
        found[name] = member
    _check_collisions(found)
    return found


def _check_kind(member: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if kind == stat.S_IFLNK else "no regular file"
        raise WheelError(f"has {_shown(member.filename)}, which is {what}")


def _checked_name(member: zipfile.ZipInfo) -> str:
    """Return the name of a member as its archive has it, when it is one below the archive's root."""
    name = member.orig_filename  # `filename` is cut at a NUL
    parts = name.removesuffix("/").split("/")
    wrong = name.startswith("/") or "\\" in name or any(part in ("", ".", "..") for part in parts)
    if wrong or ":" in parts[0] or not name.isprintable():
        raise WheelError(f"has {_shown(name)}, which is no name of a file below its directory")
    if any(len(part.encode()) > _LONGEST_NAME for part in parts):
        raise WheelError(f"has {_shown(name)}, which is too long for a name")
    return name


def _installed_name(name: str) -> str | None:
    """Return where an installer puts a file, below site-packages; None for what is not put there."""
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return name
    part, _, inside = rest.partition("/")
    return inside if part in _PARTS and inside else None


def _check_collisions(names: dict[str, zipfile.ZipInfo]) -> None:
    """Refuse names that are one where case or composition of letters does not count, and files that are directories."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(_folded(name), name)
        if other != name:
            raise WheelError(f"has {_shown(other)} and {_shown(name)}, which are one file on some machines")
    for name in names:
        for parent in _parents(name):
            other = seen.get(_folded(parent), "")
            if other:
                raise WheelError(f"has {_shown(other)} as a file, and {_shown(name)} below it")


def _parents(name: str) -> Iterator[str]:
    yield from (str(parent) for parent in PurePosixPath(name).parents if str(parent) != ".")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _shown(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:100]}…")
