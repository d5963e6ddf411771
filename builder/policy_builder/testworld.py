"""A small world for the builder's tests: an engine, wheels, Debian packages and policies, all made on the spot."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policy_builder.discover.platform import Platform
from policy_builder.discover.workspace import Workspace
from policy_builder.package.image import Built, build, layer_digests
from policy_builder.package.oci_layout import blob_path
from policy_builder.validate.report import Report
from policy_builder.validate.validation import Plan, validate

CODE = """
from policy_engine.sdk import Policy, Request


class Example(Policy):
    def on_request_headers(self, request: Request) -> None:
        return None
"""

AMD64 = Platform()

PYTHON = f'#!/bin/sh\nunset PYTHONHOME\nexec {sys.executable} "$@"\n'
"""The Python of this world's images: the one that runs the tests."""

OS_RELEASE = 'ID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n'

MANIFEST = """name: {name}
version: {version}
description: An example.
entrypoint: policy:Example
phases:
  - request_headers
parameters:
  type: object
  properties:
    limit:
      type: integer
"""


def make_wheel(
    directory: Path,
    name: str,
    version: str,
    files: Mapping[str, str | bytes] | None = None,
    *,
    requires: Sequence[str] = (),
    licence: str = "MIT",
    entry_points: str = "",
    tag: str = "py3-none-any",
) -> Path:
    """Write a wheel; `files` by their names below site-packages."""
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = [f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: {licence}"]
    metadata += [f"Requires-Dist: {one}" for one in requires]
    texts: dict[str, str | bytes] = {
        **(files if files is not None else {f"{name.replace('-', '_')}/__init__.py": f"VERSION = {version!r}\n"}),
        f"{stem}.dist-info/METADATA": "\n".join(metadata) + "\n",
        f"{stem}.dist-info/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    if entry_points:
        texts[f"{stem}.dist-info/entry_points.txt"] = entry_points
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{stem}-{tag}.whl"
    content = {file: text.encode() if isinstance(text, str) else text for file, text in texts.items()}
    record = "".join(f"{file},sha256={_urlsafe(data)},{len(data)}\n" for file, data in content.items())
    content[f"{stem}.dist-info/RECORD"] = f"{record}{stem}.dist-info/RECORD,,\n".encode()
    with zipfile.ZipFile(path, "w") as archive:
        for file, data in content.items():
            archive.writestr(zipfile.ZipInfo(file), data)
    return path


def elf(machine: int = 62) -> bytes:
    """Return the beginning of a compiled file for the machine with this number (62 is x86_64, 183 aarch64)."""
    return b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little")


def sha256(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class World:
    """Everything a build reads, below `root`."""

    root: Path
    chosen: list[str] = field(default_factory=list)
    settings: str = "version: v1\nwheels: [wheels]\n"

    def __post_init__(self) -> None:
        engine = self.root / "engine"
        (engine / "policy_engine").mkdir(parents=True)
        (engine / "policy_engine/__init__.py").write_text('"""Engine."""\n\n__version__ = "0.9.0"\n')
        (engine / "policy_engine/__main__.py").write_text("")
        (engine / "policy_engine/engine_test.py").write_text("")
        (engine / "LICENSE").write_text("The licence.\n")
        (engine / "launch.py").write_text("#!/usr/bin/python3 -IB\n")
        self.engine_needs("engine-core")
        self.lock.write_text("")
        self.locked("engine-core", "1.0")
        mirror = self.root / "mirror"
        mirror.mkdir()
        packages = {"libone": make_deb(mirror, "libone")}
        packages["libtwo"] = make_deb(mirror, "libtwo", {"usr/lib/os-release": OS_RELEASE})
        packages["python3.13-minimal"] = make_deb(mirror, "python3.13-minimal", {"usr/bin/python3.13": PYTHON})
        lock = {"suite": "trixie", "snapshot": mirror.as_uri(), "packages": {"amd64": packages, "arm64": packages}}
        self.debian.write_text(json.dumps(lock))

    @property
    def lock(self) -> Path:
        return self.root / "lock.txt"

    @property
    def debian(self) -> Path:
        return self.root / "debian.lock.json"

    @property
    def wheels(self) -> Path:
        return self.root / "wheels"

    @property
    def manifest(self) -> Path:
        return self.root / "policy-manifest.yaml"

    def engine_needs(self, *requirements: str) -> None:
        listed = json.dumps(list(requirements))
        text = f'[project]\nname = "policy-engine"\ndependencies = {listed}\n'
        (self.root / "engine/pyproject.toml").write_text(text)

    def locked(self, name: str, version: str, *, extras: str = "", **wheel: object) -> Path:
        """Make a wheel and give it a line in the lock."""
        path = make_wheel(self.wheels, name, version, **wheel)  # type: ignore[arg-type] # the same keywords
        with self.lock.open("a") as lock:
            lock.write(f"{name}{extras}=={version} \\\n    --hash={sha256(path)}\n")
        return path

    def policy(
        self, name: str, version: str = "v1.0.0", *, code: str = CODE, requirements: str = "", **files: str
    ) -> Path:
        """Write a policy and choose it; `files` by their names with `__` for the dot (`policy__yaml`)."""
        directory = self.root / "policies" / name / version.replace(".", "_")
        directory.mkdir(parents=True)
        content = {
            "policy.yaml": MANIFEST.format(name=name, version=version),
            "policy.py": code,
            "README.md": f"# {name}\n",
            "policy_test.py": "",
            "requirements.txt": requirements,
            **{file.replace("__", "."): text for file, text in files.items()},
        }
        for file, text in content.items():
            (directory / file).write_text(text)
        self.choose(f"name: {name}, version: {version}")
        return directory

    def choose(self, entry: str) -> None:
        self.chosen.append(entry)
        self.manifest.write_text(
            self.settings + "policies:\n" + "".join(f"  - {{ {entry} }}\n" for entry in self.chosen)
        )

    def workspace(self) -> Workspace:
        return Workspace(self.root / "engine", self.lock, self.debian, self.root / "cache")

    def validate(self, platform: Platform = AMD64) -> tuple[Plan | None, Report]:
        report = Report()
        return validate(self.manifest, self.workspace(), platform, report), report

    def report(self, platform: Platform = AMD64) -> str:
        """Return the report of a choice that must be refused, with paths relative to the world."""
        plan, report = self.validate(platform)
        assert plan is None
        assert report.failed
        return report.render_text().replace(f"{self.root}/", "")

    def build(self, out: Path, platform: Platform = AMD64) -> Built:
        plan, report = self.validate(platform)
        assert plan is not None, report.render_text()
        return build(plan, out, self.workspace())


def options(world: World) -> list[str]:
    """Return the command line's options that name the parts of `world`."""
    workspace = world.workspace()
    return [
        "--manifest", str(world.manifest), "--engine", str(workspace.engine), "--lock", str(workspace.lock),
        "--debian-lock", str(workspace.debian_lock), "--cache", str(workspace.cache),
    ]  # fmt: skip


def names(layout: Path) -> dict[str, tarfile.TarInfo]:
    """Return every entry of the image by its path."""
    found: dict[str, tarfile.TarInfo] = {}
    for digest in layer_digests(layout):
        with tarfile.open(blob_path(layout, digest)) as tar:
            found |= {member.name: member for member in tar}
    return found


def manifest_of(layout: Path) -> dict[str, Any]:
    """Return the manifest of the image in `layout`."""
    (descriptor,) = json.loads((layout / "index.json").read_text())["manifests"]
    return dict(json.loads(blob_path(layout, descriptor["digest"]).read_bytes()))


def make_deb(mirror: Path, name: str, more: Mapping[str, str] | None = None) -> dict[str, object]:
    """Write a package with a library, a licence, a manual page and `more` files; return its entry in the lock."""
    data = io.BytesIO()
    paths = (f"usr/lib/{name}.so", f"usr/share/doc/{name}/copyright", f"usr/share/man/man1/{name}.1")
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        for path, text in {**dict.fromkeys(paths, name), **(more or {})}.items():
            info = tarfile.TarInfo(f"./{path}")
            info.size, info.mode = len(text.encode()), 0o644
            tar.addfile(info, io.BytesIO(text.encode()))
    control = io.BytesIO()
    with tarfile.open(fileobj=control, mode="w:xz") as tar:
        text = f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: A Team <team@example.test>\n"
        info = tarfile.TarInfo("./control")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": control.getvalue(), "data.tar.xz": data.getvalue()}
    archive = b"!<arch>\n"
    for member, content in members.items():
        header = f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        archive += header.encode() + content + b"\n" * (len(content) % 2)
    package = mirror / f"{name}_1.0_all.deb"
    package.write_bytes(archive)
    digest = hashlib.sha256(archive).hexdigest()
    return {"path": package.name, "sha256": digest, "size": len(archive), "version": "1.0"}


def _urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
