"""Requirements files, read strictly: exact pins, with hashes where the file is a lock (R-30).

A separate module because a policy's `requirements.txt` and the lock of a whole build are of one form and must be
understood alike. Only what can be built twice with the same result is accepted.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.documents.plain_file import read_plain_file

MAX_BYTES = 4 << 20
_HASH = re.compile(r"--hash[= ](\S+)")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_CODING = re.compile(rb"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_COMMENT = re.compile(r"(^|\s)#.*$")


@dataclass(frozen=True, slots=True)
class Pin:
    """One exact requirement: `PyJWT[crypto]==2.15.1`; `hashes` are those of its wheels (`sha256:…`)."""

    name: str
    shown_name: str
    version: str
    extras: frozenset[str]
    hashes: frozenset[str]
    marker: str
    file: str
    line: int

    def __str__(self) -> str:
        extras = f"[{','.join(sorted(self.extras))}]" if self.extras else ""
        return f"{self.shown_name}{extras}=={self.version}"

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"

    def as_line(self) -> str:
        """Return the requirement as a line for an installer that checks hashes."""
        return " ".join([str(self), *(f"--hash={one}" for one in sorted(self.hashes))])


@dataclass(frozen=True, slots=True)
class Requirements:
    """A whole requirements file; `pins` by canonical name."""

    file: str
    pins: Mapping[str, Pin]
    diagnostics: tuple[Diagnostic, ...] = ()


def read_requirements(path: Path, environment: Mapping[str, str], shown: str | None = None) -> Requirements:
    """Read the requirements file `path`; pins whose marker does not hold in `environment` are passed over.

    `shown` is how the file is called in findings.
    """
    file = shown or str(path)
    try:
        content = read_plain_file(path, MAX_BYTES)
        if len(content) > MAX_BYTES:
            return Requirements(file, {}, (_error(file, 1, f"is larger than {MAX_BYTES >> 20} MiB"),))
        text = _decoded(content)
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        return Requirements(file, {}, (Diagnostic(file, reason, rule=Rule.UNREADABLE),))
    except _EncodingError as error:
        return Requirements(file, {}, (_error(file, 1, str(error)),))
    pins: dict[str, Pin] = {}
    diagnostics: list[Diagnostic] = []
    for number, line in _logical_lines(text):
        pin = _pin(file, number, line)
        if isinstance(pin, Diagnostic):
            diagnostics.append(pin)
        elif not pin.marker or (holds := _holds(pin.marker, environment)):
            if pin.name in pins:
                diagnostics.append(
                    _error(file, number, f"names {pin.shown_name} again; first in line {pins[pin.name].line}")
                )
            pins.setdefault(pin.name, pin)
        elif holds is None:
            diagnostics.append(
                _error(file, number, f"{pin.shown_name} has a marker that cannot be judged: {pin.marker[:80]}")
            )
    return Requirements(file, pins, tuple(diagnostics))


class _EncodingError(Exception):
    """A file is no text that an installer reads."""


def _decoded(content: bytes) -> str:
    """Return the text of a requirements file, read as pip reads it: by its BOM, by its PEP 263 line, else as UTF-8."""
    encoding = next((name for mark, name in _BOMS if content.startswith(mark)), "")
    if not encoding:
        declared = next(filter(None, (_CODING.match(line) for line in content.split(b"\n")[:2])), None)
        encoding = declared[1].decode() if declared else "utf-8"
    try:
        text = content.decode(encoding)
    except (UnicodeError, LookupError):
        name = "UTF-8 text" if encoding == "utf-8" else f"text in the encoding {encoding[:40]} that it states"
        raise _EncodingError(f"is not {name}") from None
    if not isinstance(text, str):  # codecs such as rot13 and hex are none of text
        raise _EncodingError(f"states the encoding {encoding[:40]}, which is none of text")
    return text.removeprefix("\ufeff")


def _holds(marker: str, environment: Mapping[str, str]) -> bool | None:
    """Return whether a marker holds in `environment`; None when it compares what cannot be compared."""
    try:
        return Marker(marker).evaluate(dict(environment))
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName, InvalidVersion, RecursionError):
        return None


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield each requirement on one line with the number of its first line; comments and blank lines are gone."""
    pending, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub("", raw).strip()
        start = start or number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        whole = (pending + line).strip()
        if whole:
            yield start, whole
        pending, start = "", 0
    if pending.strip():
        yield start, pending.strip()


def _pin(file: str, number: int, line: str) -> Pin | Diagnostic:
    hashes = _HASH.findall(line)
    text = _HASH.sub("", line).strip()
    if text.startswith((".", "/")):
        reason = "is a path; a library of this repository is found by its import, in the `libraries` of the manifest"
        return _error(file, number, reason)
    if text.startswith("-"):
        option = text.split()[0]
        return _error(file, number, f"has the option {option}; list every requirement itself, as name==version")
    wrong = [one for one in hashes if not _SHA256.fullmatch(one)]
    if wrong:
        return _error(file, number, f"has a hash that is not sha256: {wrong[0][:80]}")
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        return _error(
            file, number, f"is not a requirement: {str(error).splitlines()[0][:200]}", allowed="name==version"
        )
    except RecursionError:
        return _error(file, number, "is not a requirement: its marker is nested too deep", allowed="name==version")
    if requirement.url:
        reason = f"{requirement.name} comes from a URL, which may change"
        return _error(file, number, reason, allowed=f"{requirement.name}==VERSION")
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1 or specifiers[0].operator != "==" or specifiers[0].version.endswith(".*"):
        reason = f"{requirement.name} is not pinned: {text!r} means another version tomorrow"
        return _error(file, number, reason, allowed=f"{requirement.name}==VERSION")
    return Pin(
        name=canonicalize_name(requirement.name),
        shown_name=requirement.name,
        version=specifiers[0].version,
        extras=frozenset(canonicalize_name(extra) for extra in requirement.extras),
        hashes=frozenset(hashes),
        marker=str(requirement.marker or ""),
        file=file,
        line=number,
    )


def _error(file: str, line: int, reason: str, allowed: str = "") -> Diagnostic:
    return Diagnostic(file, reason, line, 1, allowed=allowed, rule=Rule.REQUIREMENTS)
