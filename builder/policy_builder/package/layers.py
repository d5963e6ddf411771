"""Writes the tar of one image layer, the same bytes for the same content on every machine.

    layers.py interpreter OUT DATA.tar…            directory with the Python of images, which compiles
    layers.py debs OUT.tar INTERPRETER DATA.tar…   Debian packages: the base of every image
    layers.py files OUT.tar INTERPRETER MANIFEST   JSON list of {"path", "source" | "content" | "link" | "directory"}

A separate module because Bazel and `policy-builder` make layers with the same code: that is why their bytes agree.
Entries are sorted, owned by root and dated 1970. The mode comes from the content: modes of input files are not part of
Bazel's action key, so they would differ from machine to machine. Modules have their bytecode beside them. Tars stay
uncompressed, since gzip's output depends on the version of zlib; a registry client compresses on its own.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from policy_builder import recipe
from policy_builder.package.bytecode import BytecodeError, Interpreter, unpack

SKIPPED = re.compile(
    r"usr/share/doc/(?!([^/]+(/copyright)?)?$)"  # licences stay: an image is a copy that is given to others
    r"|usr/share/(man|locale|lintian|bug|info|bash-completion)/"
    r"|usr/lib/[^/]+-linux-gnu/gconv/"
)
"""Parts of Debian packages that a running engine never opens; gconv holds character sets that Python has itself."""

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

    def write(self, out: Path) -> None:
        """Write all entries, with the directories above them, to `out`."""
        for path in list(self._entries):
            for parent in PurePosixPath(path).parents:
                if str(parent) != ".":
                    self.directory(str(parent))
        with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
            for _, (info, data, _) in sorted(self._entries.items()):
                tar.addfile(info, io.BytesIO(data) if info.isreg() else None)


def debs(archives: Iterable[Path]) -> Layer:
    """Merge the data archives of Debian packages into a base that runs Python as a user of its own, without a shell.

    Each archive lies in a directory named after its package.
    """
    layer = Layer()
    for name in MERGED:
        layer.link(name, "usr/" + name)
    authorities: dict[str, bytes] = {}
    for archive in archives:
        with tarfile.open(archive) as tar:
            for member in tar:
                path = member.name.removeprefix("./").rstrip("/")
                if path.split("/", 1)[0] in MERGED and "/" in path:
                    path = "usr/" + path
                if not path or path in MERGED or SKIPPED.match(f"{path}/" if member.isdir() else path):
                    continue
                if member.isdir():
                    layer.directory(path, member.mode)
                elif member.issym():
                    layer.link(path, member.linkname)
                elif stream := tar.extractfile(member):  # a regular file or a hard link to one
                    data = stream.read()
                    if path.startswith(AUTHORITIES) and path.endswith(".crt"):
                        authorities[path] = data
                    else:
                        layer.file(path, data, member.mode, archive.parent.name)
    # What the packages' installation scripts would do.
    layer.file(BUNDLE, b"".join(data for _, data in sorted(authorities.items())))
    layer.link(DEFAULT_BUNDLE, f"/{BUNDLE}")
    layer.file("etc/passwd", USERS.encode())
    layer.file("etc/group", GROUPS.encode())
    layer.link("usr/bin/python3", f"python{recipe.PYTHON}")
    layer.directory("tmp", 0o1777)
    layer.directory(recipe.WORKDIR.lstrip("/"))
    return layer


def files(manifest: Iterable[Mapping[str, Any]]) -> Layer:
    """Build the layer that `manifest` lists; raises LayerError when two entries claim one path."""
    layer = Layer()
    for entry in manifest:
        path = entry["path"].lstrip("/")
        if "link" in entry:
            layer.link(path, entry["link"])
        elif "directory" in entry:
            layer.directory(path)
        elif "content" in entry:
            layer.file(path, entry["content"].encode(), source="the build")
        else:
            layer.file(path, Path(entry["source"]).read_bytes(), source=str(entry["source"]))
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
    except (LayerError, BytecodeError) as error:
        print(f"{out}: {error}", file=sys.stderr)
        return 1
    layer.write(Path(out))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
