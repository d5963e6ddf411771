"""What a registry answers is used only when it is what this repository was written against; clients are stand-ins here."""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from tools.conformance.downloads import GoModule, NpmPackage, go_module, npm_package, requirement_of, run
from tools.conformance.suite import SuiteError

LOCK = (
    "other-name==2.0 \\\n    --hash=sha256:aa\n    # via x\n"
    "name==1.0 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n    # via y\n"
    "bare==1.0\n"
)


def client(directory: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program in front of all others."""
    program = directory / "bin" / name
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


@pytest.mark.parametrize("checksum", ["h1:as-written", "h1:another"])
def test_a_module_is_used_only_with_its_checksum(
    checksum: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps({"Sum": checksum, "Dir": str(tmp_path)})
    asked = tmp_path / "asked"
    client(tmp_path, "go", f"echo \"$*\" > {asked}\necho '{answer}'", monkeypatch)
    module = GoModule("example.test/m", "v1.2.3", "h1:as-written")
    if checksum == module.checksum:
        assert go_module(module) == tmp_path
        assert asked.read_text() == "mod download -json example.test/m@v1.2.3\n"
    else:
        with pytest.raises(SuiteError, match=r"example\.test/m@v1\.2\.3, h1: it is h1:another, not h1:as-written"):
            go_module(module)


@pytest.mark.parametrize("pinned", [True, False])
def test_a_package_is_unpacked_only_with_its_hash(
    pinned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "package"
    source.mkdir()
    (source / "file.txt").write_text("text")
    archive = tmp_path / "made.tgz"
    with tarfile.open(archive, "w:gz") as files:
        files.add(source, "package")
    destination = tmp_path / "destination"
    destination.mkdir()
    client(
        tmp_path,
        "npm",
        f'cp {archive} {destination}/p-1.0.0.tgz\necho \'[{{"filename": "p-1.0.0.tgz"}}]\'',
        monkeypatch,
    )
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    package = NpmPackage("p", "1.0.0", digest if pinned else "another")
    if pinned:
        assert npm_package(package, destination) == destination / "node_modules" / "p"
        assert (destination / "node_modules" / "p" / "file.txt").read_text() == "text"
    else:
        with pytest.raises(SuiteError, match=r"p@1\.0\.0, sha512: it is .*, not another"):
            npm_package(package, destination)
        assert not (destination / "node_modules").exists()


def test_the_lock_says_which_version_and_which_hashes() -> None:
    assert requirement_of("name", LOCK) == "name==1.0 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n"


@pytest.mark.parametrize("name", ["bare", "ame", "absent"])
def test_what_the_lock_does_not_pin_is_not_fetched(name: str) -> None:
    with pytest.raises(SuiteError, match=f"{name} is not pinned by a hash"):
        requirement_of(name, LOCK)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["no-such-program-here"], "no-such-program-here is not on PATH"),
        (["sh", "-c", "echo out; echo why >&2; exit 3"], "exit 3: why"),
        (["sh", "-c", "echo out; exit 3"], "exit 3: out"),
    ],
)
def test_a_client_that_fails_says_why(command: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(SuiteError) as caught:
        run(command, tmp_path)
    assert says in str(caught.value)
