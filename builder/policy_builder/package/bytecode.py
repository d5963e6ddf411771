"""Bytecode and compressed layers, made by the interpreter that images run: a process starts without compiling.

A separate module because it alone runs something of an image on the machine that builds it: Debian's Python with its C
libraries, from the packages of the lock. So the bytes depend on the lock and the source, and not on the Python that
happens to build; and they are those of another platform's image too, since bytecode is the same on every machine.

Files are hash-based and unchecked (PEP 552): an image's file system is read-only and its times are all 1970, so there
is nothing to check at an import. Standard library only.
"""

from __future__ import annotations

import marshal
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from policy_builder.recipe import MACHINES, PYTHON

TAG = f"cpython-{PYTHON.replace('.', '')}"
"""What the interpreter calls its bytecode (PEP 3147); another interpreter is refused."""

_ARCHITECTURES = {machine: architecture for architecture, machine in MACHINES.items()}
_PYTHON = f"usr/bin/python{PYTHON}"
_COMPILE = f"""
import importlib.util, marshal, sys
if sys.implementation.cache_tag != {TAG!r}:
    sys.exit("this is " + sys.implementation.cache_tag + ", not {TAG}")
compiled = []
for path, source in marshal.load(sys.stdin.buffer):
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        continue  # a template, code for another Python: it stays as it is
    flags = (1).to_bytes(4, "little")  # hash-based, unchecked
    header = importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(source)
    compiled.append((path, header + marshal.dumps(code)))
marshal.dump(compiled, sys.stdout.buffer, 2)
"""


LEVEL = 6
_COMPRESS = f"""
import sys, zlib
stream = zlib.compressobj({LEVEL}, zlib.DEFLATED, 31)
with open(sys.argv[1], "rb") as source, open(sys.argv[2], "wb") as target:
    while chunk := source.read(1 << 20):
        target.write(stream.compress(chunk))
    target.write(stream.flush())
"""


class BytecodeError(Exception):
    """The interpreter of images cannot compile on this machine; the message says why."""


class Interpreter:
    """The Python of images, unpacked by `unpack` into `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()

    def compile(self, sources: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return the bytecode files of modules, by their paths, of the sources by theirs; paths lack the first slash.

        What is no valid Python gets none. Raises BytecodeError.
        """
        if not sources:
            return {}
        given = [(f"/{path}", sources[path]) for path in sorted(sources)]
        output = self._run("compile", _COMPILE, given=marshal.dumps(given, 2))
        compiled = marshal.loads(output)  # noqa: S302 - written by the program above, of the locked packages
        return {_beside(path): content for path, content in compiled}

    def compress(self, source: Path, target: Path) -> None:
        """Write what gzip makes of the file `source`, the same bytes wherever this interpreter runs.

        Raises BytecodeError.
        """
        self._run("compress", _COMPRESS, str(source.absolute()), str(target.absolute()))

    def _run(self, what: str, program: str, *arguments: str, given: bytes = b"") -> bytes:
        libraries = self._directory / "usr/lib"
        command = [str(self._directory / _PYTHON)]
        for loader in sorted(libraries.glob("ld-linux-*.so.*")):  # not the machine's own C library
            command = [str(loader), "--library-path", str(libraries), *command]
        command += ["-S", "-s", "-B", "-P", "-W", "ignore", "-X", "utf8", "-c", program, *arguments]
        environment = {"PYTHONHOME": str(self._directory / "usr"), "PYTHONHASHSEED": "0"}
        try:
            done = subprocess.run(command, input=given, capture_output=True, env=environment, check=False)
        except OSError as error:
            raise BytecodeError(f"{command[0]}, of the image's Python, does not start: {error.strerror}") from None
        if done.returncode:
            raise BytecodeError(f"the image's Python cannot {what}: {done.stderr.decode(errors='replace')[-2000:]}")
        return done.stdout


def machine_architecture() -> str:
    """Return the architecture, as Debian calls it, whose interpreter this machine runs. Raises BytecodeError."""
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in _ARCHITECTURES:
        raise BytecodeError(
            f"images are built on Linux, {' or '.join(_ARCHITECTURES)}, since their own Python compiles what is in "
            f"them; this is {platform.system()}, {machine}"
        )
    return _ARCHITECTURES[machine]


def unpack(archives: Iterable[Path], directory: Path) -> None:
    """Unpack what compiling takes (program, libraries, modules) of the archives in PYTHON_PACKAGES."""
    for archive in (one for one in archives if one.name.startswith("data.")):
        with tarfile.open(archive) as tar:
            for member in tar:
                path = PurePosixPath(member.name.removeprefix("./"))
                library = ".so" in path.suffixes and path.parent.name.endswith("-linux-gnu")
                if not (library or (member.isreg() and (str(path) == _PYTHON or path.suffix == ".py"))):
                    continue
                # Libraries lie side by side, and their links are copies: a tree of Bazel's has none.
                target = directory / (f"usr/lib/{path.name}" if library else path)
                target.parent.mkdir(parents=True, exist_ok=True)
                if (stream := tar.extractfile(member)) is not None:
                    with target.open("wb") as file:
                        shutil.copyfileobj(stream, file)
                    target.chmod(0o755)


def _beside(path: str) -> str:
    """Return where Python looks for the bytecode of the module at `path` (PEP 3147)."""
    module = PurePosixPath(path)
    return str(module.parent / "__pycache__" / f"{module.stem}.{TAG}.pyc").lstrip("/")
