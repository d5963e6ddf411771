"""Writes the tar of one image layer, the same bytes for the same content on every machine.

    layers.py interpreter OUT DATA.tar…            directory with the Python of images, which compiles
    layers.py debs OUT.tar INTERPRETER DATA.tar…   Debian packages: the base of every image
    layers.py files OUT.tar INTERPRETER MANIFEST   JSON list of {"path", "source" | "content" | "tree" | …}

A separate module because Bazel and `policy-builder` make layers with the same code: that is why their bytes agree.
Entries are sorted, owned by root and dated 1970. The mode comes from the content: modes of input files are not part of
Bazel's action key, so they would differ from machine to machine. Modules have their bytecode beside them. An OUT that
ends in `.tar.gz` is compressed by the image's own Python: gzip's output depends on the zlib, and this one is locked.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from policy_builder import recipe
from policy_builder.package.bytecode import BytecodeError, Interpreter, unpack
from policy_builder.stripping import stripped

_TESTS_OF_PYTHON = (
    r"test|idlelib|turtledemo|tkinter|ensurepip|lib2to3|pydoc_data|_pyrepl|curses|sqlite3|venv|zipapp|config-[^/]+"
    r"|(pydoc|turtle|webbrowser|antigravity|this|__phello__|_pydecimal|_pydatetime|_pyio|pickletools|tabnanny)(?=\.py$)"
    r"|[^/]+/tests?(?=/)"
)
_WITHOUT_LIBRARY = r"_test\w*|_xx\w+|xx\w+|_ctypes_test|_curses\w*|_sqlite3|_dbm|_gdbm|readline|_tkinter"

SKIPPED = re.compile(
    r"usr/share/doc/(?!([^/]+(/copyright)?)?$)"  # licences stay: an image is a copy that is given to others
    r"|usr/share/(man|locale|lintian|bug|info|bash-completion|gcc|gdb|python3|applications|pixmaps)/"
    r"|usr/lib/[^/]+-linux-gnu/(gconv/|libmvec\.so)"
    rf"|usr/lib/python[^/]+/({_TESTS_OF_PYTHON})(/|\.py$)"
    rf"|usr/lib/python[^/]+/lib-dynload/({_WITHOUT_LIBRARY})\."
    r"|usr/lib/binfmt\.d/|usr/include/|etc/ca-certificates/|etc/python"
)
"""Parts of Debian packages that a running engine never opens.

gconv holds character sets that Python has itself, libmvec mathematics that no wheel may link (PEP 600). Of Python: its
tests, the help for people at a terminal, stand-ins for modules that are compiled here, and modules whose libraries an
image lacks.
"""

STATUS = "var/lib/dpkg/status.d"
"""Where images without a package manager say what they hold; scanners look here (as in Google's distroless images)."""

_SCRIPT = re.compile(rb"#! *(/usr)?/bin/(env +)?(ba|da|)sh\b|#! */usr/bin/perl\b")

MERGED = ("bin", "sbin", "lib", "lib64")
"""Top directories that are symbolic links into /usr."""

_MODULES = tuple(f"{directory.lstrip('/')}/" for directory in recipe.MODULES)

AUTHORITIES = "usr/share/ca-certificates/"
BUNDLE = "etc/ssl/certs/ca-certificates.crt"
DEFAULT_BUNDLE = "usr/lib/ssl/cert.pem"
"""Where OpenSSL looks when nobody names authorities; the link comes with the package `openssl`, which images lack."""

USERS = f"root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:{recipe.USER}::{recipe.WORKDIR}:/sbin/nologin\n"
GROUPS = f"root:x:0:\nnonroot:x:{recipe.USER_ID}:\n"


class LayerError(Exception):
    """Two inputs claim one path with different content."""


class Layer:
    """The entries of a layer by path."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[tarfile.TarInfo, bytes, str]] = {}

    def file(self, path: str, data: bytes, mode: int | None = None, source: str = "") -> None:
        """Add a regular file; `source` names the origin in messages.

        Raises LayerError when `path` is taken by other content.
        """
        taken = self._entries.get(path)
        if taken and taken[1] != data:
            raise LayerError(f"/{path} comes with different content from {taken[2]} and from {source}")
        info = tarfile.TarInfo(path)
        info.size = len(data)
        info.mode = mode if mode is not None else (0o755 if data.startswith((b"\x7fELF", b"#!")) else 0o644)
        self._entries[path] = (info, data, source)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        info = tarfile.TarInfo(path)
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
        self._entries[path] = (info, b"", "")

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory unless it is there."""
        info = tarfile.TarInfo(path)
        info.type, info.mode = tarfile.DIRTYPE, mode
        self._entries.setdefault(path, (info, b"", ""))

    def compile(self, interpreter: Interpreter) -> None:
        """Add the bytecode of every module that the layer has. Raises BytecodeError."""
        modules = {
            path: data
            for path, (info, data, _) in self._entries.items()
            if info.isreg() and path.startswith(_MODULES) and path.endswith(".py")
        }
        for path, data in interpreter.compile(modules).items():
            self.file(path, data, source="the image's Python")

    def write(self, out: Path, interpreter: Interpreter | None = None) -> None:
        """Write all entries, with the directories above them, to `out`; compressed by `interpreter` for `.tar.gz`."""
        for path in list(self._entries):
            for parent in PurePosixPath(path).parents:
                if str(parent) != ".":
                    self.directory(str(parent))
        plain = out if interpreter is None or out.suffix != ".gz" else out.with_suffix("")
        with tarfile.open(plain, "w", format=tarfile.GNU_FORMAT) as tar:
            for _, (info, data, _) in sorted(self._entries.items()):
                tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
        if interpreter is not None and plain != out:
            interpreter.compress(plain, out)
            plain.unlink()


def debs(archives: Iterable[Path]) -> Layer:
    """Merge the archives in Debian packages into a base that runs Python as a user of its own, without a shell.

    Each archive (`data.tar.xz`, `control.tar.xz`) lies in a directory named after its package. Programs that need a
    shell or Perl are left out.
    """
    layer = Layer()
    for name in MERGED:
        layer.link(name, "usr/" + name)
    authorities: dict[str, bytes] = {}
    controls: dict[str, bytes] = {}
    files: dict[str, dict[str, bytes]] = {}
    for archive in archives:
        package = archive.parent.name
        if archive.name.startswith("control."):
            controls[package] = _control(archive)
            continue
        for path, member, data in _wanted(archive):
            if member.isdir():
                layer.directory(path, member.mode)
            elif member.issym():
                layer.link(path, member.linkname)
            elif path.startswith(AUTHORITIES) and path.endswith(".crt"):
                authorities[path] = data
            elif not _SCRIPT.match(data):
                layer.file(path, data, member.mode, package)
                files.setdefault(package, {})[path] = data
    for package, control in controls.items():
        layer.file(f"{STATUS}/{package}", control, source=package)
        sums = "".join(
            f"{hashlib.md5(data, usedforsecurity=False).hexdigest()}  {path}\n"
            for path, data in sorted(files.get(package, {}).items())
        )
        layer.file(f"{STATUS}/{package}.md5sums", sums.encode(), source=package)
    # What the packages' installation scripts would do.
    layer.file(BUNDLE, b"".join(data for _, data in sorted(authorities.items())))
    layer.link(DEFAULT_BUNDLE, f"/{BUNDLE}")
    layer.file("etc/passwd", USERS.encode())
    layer.file("etc/group", GROUPS.encode())
    layer.link("usr/bin/python3", f"python{recipe.PYTHON}")
    layer.directory("tmp", 0o1777)
    layer.directory(recipe.WORKDIR.lstrip("/"))
    return layer


def _wanted(archive: Path) -> Iterator[tuple[str, tarfile.TarInfo, bytes]]:
    """Yield what images take of a package: where it lies, what it is, and its content."""
    package = archive.parent.name
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.removeprefix("./").rstrip("/")
            if path.split("/", 1)[0] in MERGED and "/" in path:
                path = "usr/" + path
            if not path or path in MERGED or SKIPPED.match(f"{path}/" if member.isdir() else path):
                continue
            if package in recipe.PARTS and not _is_part(path, recipe.PARTS[package]):
                continue
            stream = None if member.isdir() or member.issym() else tar.extractfile(member)
            if stream is not None:  # a regular file or a hard link to one
                yield path, member, stream.read()
            elif member.isdir() or member.issym():
                yield path, member, b""


def _is_part(path: str, parts: Iterable[str]) -> bool:
    """Return whether `path` is one of `parts`, lies below one that ends in a slash, or leads to one."""
    return any(part in {path, f"{path}/"} or (part.endswith("/") and path.startswith(part)) for part in parts)


def _control(archive: Path) -> bytes:
    """Return the control file in a package's archive of control files (deb-control(5)). Raises LayerError."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name.removeprefix("./") == "control" and (stream := tar.extractfile(member)):
                    return stream.read().rstrip(b"\n") + b"\n"
    except tarfile.TarError:
        pass
    raise LayerError(f"{archive.parent.name}: {archive.name} has no control file")


def files(manifest: Iterable[Mapping[str, Any]]) -> Layer:
    """Build the layer that `manifest` lists; raises LayerError when two entries claim one path."""
    layer = Layer()
    for entry in manifest:
        path = entry["path"].lstrip("/")
        if "link" in entry:
            layer.link(path, entry["link"])
        elif "directory" in entry:
            layer.directory(path)
        elif "tree" in entry:
            for file in sorted(one for one in Path(entry["tree"]).rglob("*") if one.is_file()):
                name = file.relative_to(entry["tree"]).as_posix()
                layer.file(f"{path}/{name}", file.read_bytes(), source="the build")
        elif "content" in entry:
            layer.file(path, entry["content"].encode(), source="the build")
        else:
            data = Path(entry["source"]).read_bytes()
            if recipe.is_stripped(entry["path"]):
                data = stripped(data)
            layer.file(path, data, source=str(entry["source"]))
    return layer


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    mode, out, *inputs = arguments
    if mode == "interpreter":
        unpack(map(Path, inputs), Path(out))
        return 0
    interpreter, *inputs = inputs
    try:
        layer = debs(map(Path, inputs)) if mode == "debs" else files(json.loads(Path(inputs[0]).read_text()))
        layer.compile(Interpreter(Path(interpreter)))
        layer.write(Path(out), Interpreter(Path(interpreter)))
    except (LayerError, BytecodeError) as error:
        print(f"{out}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
