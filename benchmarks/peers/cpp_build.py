"""Compiles the C++ peer with what Debian packages, once for each machine and version of its sources.

Not a Bazel rule: only a run that measures the peer needs a compiler and gRPC's headers, no build and no test does.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_SOURCES = Path(__file__).parent / "cpp"
_PACKAGES = ("g++", "libgrpc++-dev", "libgrpc-dev", "libprotobuf-dev", "protobuf-compiler", "protobuf-compiler-grpc")
_HEADER = Path("/usr/include/grpcpp/grpcpp.h")


class CppPeerError(RuntimeError):
    """The C++ peer cannot be built; the message says what to do."""


def cpp_server() -> Path:
    """Return the path of the compiled server, from the cache when it was built before. Raises CppPeerError."""
    missing = [tool for tool in ("g++", "protoc", "grpc_cpp_plugin") if shutil.which(tool) is None]
    if missing or not _HEADER.is_file():
        raise CppPeerError(
            f"the C++ peer needs {', '.join(missing) or _HEADER}. Debian: apt-get install {' '.join(_PACKAGES)}, or "
            "let --install-cpp do that; --without-cpp measures without this peer"
        )
    binary = _cache() / f"cpp-peer-{_recipe()}"
    if not binary.is_file():
        _compile(binary)
    return binary


def install() -> None:
    """Install what it is compiled with by apt-get, as root; inside ./bazelw that is into its own Debian system."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise CppPeerError(f"--install-cpp needs root and apt-get; install {' '.join(_PACKAGES)} yourself")
    _run("apt-get", "update", "-qq")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *_PACKAGES)


def compiler_version() -> str:
    """Return the first line of `g++ --version`."""
    return _run("g++", "--version").splitlines()[0]


def _compile(binary: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="cpp-peer-") as name:
        made = Path(name)
        plugin = f"--plugin=protoc-gen-grpc={shutil.which('grpc_cpp_plugin')}"
        _run("protoc", f"-I{_SOURCES.resolve()}", f"--cpp_out={made}", f"--grpc_out={made}", plugin, "ext_proc.proto")
        generated = [made / "ext_proc.pb.cc", made / "ext_proc.grpc.pb.cc"]
        # gRPC's headers call Abseil's libraries by themselves, and which ones differs between releases.
        libraries = ["-Wl,--copy-dt-needed-entries", "-lgrpc++", "-lgrpc", "-lgpr", "-lprotobuf"]
        options = ["-O2", "-DNDEBUG", "-std=c++17", f"-I{made}"]
        _run("g++", *options, _SOURCES / "server.cc", *generated, "-o", made / "server", *libraries)
        binary.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(made / "server", binary.with_suffix(".new"))
        binary.with_suffix(".new").replace(binary)


def _recipe() -> str:
    # Another release of Debian has other versions of the libraries.
    parts = [Path("/etc/os-release"), Path(__file__), *sorted(_SOURCES.iterdir())]
    return hashlib.sha256(b"\0".join(part.read_bytes() for part in parts)).hexdigest()[:12]


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "policy-engine-benchmarks"


def _run(*command: str | Path) -> str:
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CppPeerError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise CppPeerError(f"{' '.join(map(str, command))}\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout
