"""Runs an image tarball as a container, by docker where a daemon answers, else by runc, which needs none.

There is no third way and no skip: without either the test fails and says what to install (issue 2).
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integration.harness.processes import STOP_TIMEOUT_S, Process

VARIABLE = "CONTAINER_RUNTIME"
_TEMPORARY_FILES = {
    "destination": "/tmp",
    "type": "tmpfs",
    "source": "tmp",
    "options": ["mode=1777", "nosuid", "nodev"],
}


class ContainerError(RuntimeError):
    """The image cannot be read, or nothing here can run containers; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory or file of this machine seen at `target` in the container."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """What `docker load` would load: the parts of the image's configuration that running it needs."""

    tarball: Path
    tag: str
    layers: tuple[str, ...]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    env: tuple[str, ...]
    working_dir: str
    user: str
    labels: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, tarball: Path) -> Image:
        """Read a tarball with one tagged image. Raises ContainerError when it is something else."""
        try:
            with tarfile.open(tarball) as archive:
                manifest = _json_member(archive, "manifest.json")[0]
                config = _json_member(archive, manifest["Config"])["config"]
        except (OSError, KeyError, ValueError, tarfile.TarError) as error:
            raise ContainerError(f"{tarball} is not an image tarball as `docker load` takes it: {error!r}") from error
        return cls(
            tarball=tarball,
            tag=manifest["RepoTags"][0],
            layers=tuple(manifest["Layers"]),
            entrypoint=tuple(config.get("Entrypoint") or ()),
            command=tuple(config.get("Cmd") or ()),
            env=tuple(config.get("Env") or ()),
            working_dir=config.get("WorkingDir") or "/",
            user=config.get("User") or "0",
            labels=tuple(sorted((config.get("Labels") or {}).items())),
        )


class Container(Process):
    """A running container: host network, read-only root, no capabilities, user and environment from the image.

    `command` replaces the image's own arguments. Its log is the output of the container. Ends with this process,
    even when this process is killed: a guard process waits for that.
    """

    def __init__(
        self,
        name: str,
        image: Image,
        *,
        log_path: Path,
        command: Sequence[str] | None = None,
        mounts: Sequence[Mount] = (),
    ) -> None:
        identity = f"{name}-{uuid.uuid4().hex[:12]}"
        arguments = tuple(image.command if command is None else command)
        self.runtime = container_runtime()
        launch = _docker if self.runtime == "docker" else _runc
        run, remove = launch(identity, image, arguments, mounts)
        self._guard = _start_guard(remove)
        super().__init__(name, run, log_path=log_path)

    def stop(self, *, sign: signal.Signals = signal.SIGTERM, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Send `sign` to the container's first process, remove the container, return the exit status."""
        status = super().stop(sign=sign, timeout_s=timeout_s)
        self._guard.communicate()  # closes its standard input, which lets it remove the container
        return status


@functools.cache
def container_runtime() -> str:
    """Return `docker` or `runc`; `$CONTAINER_RUNTIME` decides when set. Raises ContainerError when neither works."""
    wanted = os.environ.get(VARIABLE)
    if wanted not in {None, "", "docker", "runc"}:
        raise ContainerError(f"{VARIABLE}={wanted}: expected docker or runc")
    if wanted != "runc" and _docker_answers():
        return "docker"
    if wanted != "docker" and shutil.which("runc") and os.geteuid() == 0:
        return "runc"
    raise ContainerError(
        "nothing here can run a container: no docker daemon answers (`docker info`), and runc is "
        + ("installed but needs root" if shutil.which("runc") else "not installed (Debian: apt-get install runc)")
    )


def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=30).returncode == 0


Launch = tuple[list[str], list[str]]
"""The command that runs the container in the foreground, and the one that removes it whatever its state."""


def _docker(identity: str, image: Image, command: Sequence[str], mounts: Sequence[Mount]) -> Launch:
    _docker_load(image.tarball)
    hardening = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    volumes = [f"--volume={mount.source}:{mount.target}{'' if mount.writable else ':ro'}" for mount in mounts]
    entrypoint, *first = image.entrypoint
    options = [f"--name={identity}", "--rm", "--network=host", f"--entrypoint={entrypoint}", *hardening, *volumes]
    return ["docker", "run", *options, image.tag, *first, *command], ["docker", "rm", "--force", identity]


@functools.cache
def _docker_load(tarball: Path) -> None:
    load = subprocess.run(["docker", "load", "--input", tarball], check=False, capture_output=True, text=True)
    if load.returncode:
        raise ContainerError(f"docker load of {tarball} failed: {load.stderr.strip()}")


def _runc(identity: str, image: Image, command: Sequence[str], mounts: Sequence[Mount]) -> Launch:
    bundle = _scratch() / identity
    bundle.mkdir()
    spec = _runtime_spec(image, command, mounts, _root_filesystem(image))
    (bundle / "config.json").write_text(json.dumps(spec))
    runc = ["runc", "--root", str(_scratch() / "state")]
    return [*runc, "run", "--bundle", str(bundle), identity], [*runc, "delete", "--force", identity]


def _runtime_spec(image: Image, command: Sequence[str], mounts: Sequence[Mount], root: Path) -> dict[str, Any]:
    """Return the container's OCI runtime specification."""
    user, _, group = image.user.partition(":")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(root), "readonly": True},
        "process": {
            "args": [*image.entrypoint, *command],
            "env": list(image.env),
            "cwd": image.working_dir,
            "user": {"uid": int(user), "gid": int(group or user)},
            "noNewPrivileges": True,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}],
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "dev", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777", "nosuid", "nodev"]},
            _TEMPORARY_FILES,
            *(_bind(mount) for mount in mounts),
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
    }


def _bind(mount: Mount) -> dict[str, Any]:
    options = ["rbind", "rw" if mount.writable else "ro"]
    return {"destination": mount.target, "type": "bind", "source": str(mount.source.resolve()), "options": options}


@functools.cache
def _scratch() -> Path:
    """Return this process's directory for bundles and root file systems; it is gone when the process ends."""
    # Bazel clears its test directory even after a killed test; an image's files are hundreds of megabytes.
    path = Path(tempfile.mkdtemp(prefix="containers-", dir=os.environ.get("TEST_TMPDIR")))
    path.chmod(0o755)
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def _root_filesystem(image: Image) -> Path:
    root = Path(tempfile.mkdtemp(prefix="root-", dir=_scratch()))
    root.chmod(0o755)
    with tarfile.open(image.tarball) as archive:
        for layer in image.layers:
            with tarfile.open(fileobj=archive.extractfile(layer)) as files:
                files.extractall(root, members=_checked(files, layer), filter="tar")
    for mount_point in ("proc", "dev", "tmp"):
        (root / mount_point).mkdir(exist_ok=True)
    return root


def _checked(files: tarfile.TarFile, layer: str) -> list[tarfile.TarInfo]:
    members = files.getmembers()
    for member in members:
        if Path(member.name).name.startswith(".wh."):
            raise ContainerError(f"layer {layer} deletes a file ({member.name}); our images are made without deletions")
    return members


def _json_member(archive: tarfile.TarFile, name: str) -> Any:
    member = archive.extractfile(name)
    if member is None:
        raise ValueError(f"{name} is not a file")
    return json.load(member)


def _start_guard(remove: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a process that runs `remove` once our end of its standard input closes, however we end."""
    return subprocess.Popen(
        ["sh", "-c", 'cat; "$@"', "guard", *remove],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
