"""bazelw: which Bazel it takes and why, what it remembers of that, and whose workspaces it serves.

The launchers are scripts of the test. Where none of them will do, bazelw would build a Debian system: the tests hide that
they are root, so that it says why and ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parents[2]
VERSION = (ENGINE / ".bazelversion").read_text().strip()
MODULE = 'module(name = "acme")\n\nbazel_dep(name = "policy_engine", version = "0.1.0")\n'

GOOD = f"""
case $1 in
--version) echo "bazel {VERSION}" ;;
mod) echo "<root>" ;;
*) echo "ran $* in $PWD with ${{USE_BAZEL_VERSION:-no version}}" ;;
esac
"""
OTHER = GOOD.replace(VERSION, "6.5.0")
UNRESOLVED = GOOD.replace('echo "<root>"', 'echo "ERROR: registry out of reach" >&2; exit 48')
HANGS = "exec sleep 600\n"
HANGS_IN_REGISTRY = GOOD.replace('echo "<root>"', "exec sleep 600")
DOWNLOADS = GOOD.replace('echo "<root>"', "for i in 1 2 3 4 5 6; do echo downloading; sleep 0.5; done")
COMPUTES = GOOD.replace('echo "<root>"', "end=$((SECONDS + 3)); while ((SECONDS < end)); do x=$((x + 1)); done")


@dataclass
class Machine:
    """A machine with some launchers, and a workspace that depends on the engine."""

    root: Path

    @property
    def workspace(self) -> Path:
        return self.root / "workspace"

    def install(self, name: str, script: str) -> None:
        file = self.root / "bin" / name
        file.write_text(f"#!/bin/bash\necho {name} $* >>{self.root}/asked\n{script}")
        file.chmod(0o755)

    def asked(self) -> list[str]:
        """Return what launchers were asked since the last time."""
        file = self.root / "asked"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def run(
        self, *arguments: str, bazelw: Path = ENGINE / "bazelw", cwd: Path | None = None, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("BAZELW", "USE_BAZEL"))}
        variables |= {"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}", "HOME": str(self.root / "home")}
        variables |= {"BAZELW_HOME": str(self.root / "bazelw"), "BAZELW_PATIENCE": "2"}
        variables.pop("XDG_CACHE_HOME", None)
        return subprocess.run(
            ["bash", str(bazelw), *arguments],
            cwd=cwd or self.workspace,
            env={**variables, **environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    (tmp_path / "bin").mkdir()
    machine.workspace.mkdir()
    (machine.workspace / "MODULE.bazel").write_text(MODULE)
    machine.install("bazel", "exit 1\n")
    machine.install("bazelisk", "exit 1\n")
    machine.install("sudo", "exit 1\n")
    machine.install("id", "echo 1000\n")
    return machine


@pytest.mark.parametrize(
    ("launcher", "script"),
    [("bazelisk", GOOD), ("bazel", GOOD), ("bazelisk", DOWNLOADS), ("bazel", COMPUTES)],
    ids=["bazelisk", "bazel", "downloads", "computes"],
)
def test_a_launcher_that_resolves_the_workspace_is_taken(machine: Machine, launcher: str, script: str) -> None:
    machine.install(launcher, script)
    done = machine.run("build", "//:image")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"ran build //:image in {machine.workspace} with {VERSION}"
    assert f"bazelw: connected, with {machine.root}/bin/{launcher}: it resolved {machine.workspace}" in done.stderr


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (HANGS, "bazel gave no sign of life for 2 s"),
        (HANGS_IN_REGISTRY, "bazel gave no sign of life while it resolved MODULE.bazel"),
        (OTHER, f"bazel says bazel 6.5.0, and {ENGINE}/.bazelversion {VERSION}"),
        (UNRESOLVED, "bazel cannot resolve MODULE.bazel (ERROR: registry out of reach)"),
        ("exit 3\n", "bazel says nothing"),
    ],
)
def test_the_reason_against_a_launcher_is_told(machine: Machine, script: str, why: str) -> None:
    machine.install("bazel", script)
    (machine.root / "bin/bazelisk").unlink()
    started = time.monotonic()
    done = machine.run("build", "//:image")
    assert done.returncode == 1
    assert "bazelw: offline: " in done.stderr
    assert why in done.stderr
    assert "needs root" in done.stderr
    assert time.monotonic() - started < 60
    done = machine.run("build", "//:image", BAZELW_MODE="connected")
    assert (done.returncode, why in done.stderr, "offline" in done.stderr) == (1, True, False)


def test_what_was_found_is_remembered_until_something_changes(machine: Machine) -> None:
    machine.install("bazelisk", GOOD)
    machine.run("info")
    assert machine.asked() == ["bazelisk --version", "bazelisk mod graph --depth=1", "bazelisk info"]
    done = machine.run("info")
    assert machine.asked() == ["bazelisk info"]
    assert "as found on 20" in done.stderr
    assert "BAZELW_MODE=auto finds out anew" in done.stderr
    for change in (
        lambda: (machine.workspace / "MODULE.bazel").write_text(MODULE + "\n"),
        lambda: machine.install("bazel", "exit 4\n"),
    ):
        change()
        machine.run("info")
        assert "bazelisk mod graph --depth=1" in machine.asked()
        machine.run("info")
        assert machine.asked() == ["bazelisk info"]
    machine.run("info", BAZELW_MODE="auto")
    assert "bazelisk mod graph --depth=1" in machine.asked()


def test_that_there_is_no_launcher_is_remembered_too(machine: Machine) -> None:
    machine.run("info")
    assert machine.asked()
    done = machine.run("info")
    assert [line for line in machine.asked() if line.startswith("bazel")] == []
    assert "as found on 20" in done.stderr
    machine.install("bazelisk", GOOD)
    assert machine.run("info").returncode == 0


def test_a_workspace_has_its_own_version(machine: Machine) -> None:
    machine.install("bazelisk", GOOD.replace(VERSION, "9.1.0"))
    (machine.workspace / ".bazelversion").write_text("9.1.0\n")
    assert machine.run("info").stdout == f"ran info in {machine.workspace} with no version\n"


def test_a_wrapper_a_link_and_a_directory_below_lead_to_the_same(machine: Machine) -> None:
    machine.install("bazelisk", GOOD)
    below = machine.workspace / "policies/one"
    below.mkdir(parents=True)
    wrapper, link = machine.workspace / "bazelw", machine.root / "link"
    wrapper.write_text(f'#!/bin/bash\nexec "{ENGINE}/bazelw" "$@"\n')
    link.symlink_to(ENGINE / "bazelw")
    for bazelw in (wrapper, link, ENGINE / "bazelw"):
        done = machine.run("test", ":tests", bazelw=bazelw, cwd=below)
        assert done.stdout == f"ran test :tests in {below} with {VERSION}\n", done.stderr


def test_the_wrapper_of_the_example_leads_here(machine: Machine) -> None:
    machine.install("bazelisk", GOOD)
    example = machine.root / "engine/examples/own-repository"
    example.mkdir(parents=True)
    for name in ("bazelw", "MODULE.bazel"):
        shutil.copyfile(ENGINE / "examples/own-repository" / name, example / name)
    for name in ("bazelw", ".bazelversion"):
        shutil.copyfile(ENGINE / name, machine.root / "engine" / name)
    (machine.root / "engine/bazelw").chmod(0o755)
    done = machine.run("test", "//:tests", bazelw=example / "bazelw", cwd=example)
    assert done.stdout == f"ran test //:tests in {example} with {VERSION}\n", done.stderr


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (None, "there is no MODULE.bazel in"),
        ('module(name = "other")\n', "does not depend on policy_engine"),
    ],
)
def test_what_is_no_workspace_of_the_engine_is_refused(machine: Machine, module: str | None, expected: str) -> None:
    machine.install("bazelisk", GOOD)
    (machine.workspace / "MODULE.bazel").unlink()
    if module is not None:
        (machine.workspace / "MODULE.bazel").write_text(module)
    done = machine.run("build", "//:image")
    assert (done.returncode, expected in done.stderr) == (1, True), done.stderr


def test_a_disk_without_room_is_told_before_anything_is_built(machine: Machine) -> None:
    machine.install("id", "echo 0\n")
    machine.install("df", "echo header; echo /dev/x 9 9 204800 9% /\n")
    machine.install("debootstrap", "exit 1\n")
    done = machine.run("info", BAZELW_MODE="offline", DEBIAN_MIRROR="http://127.0.0.1:9/debian")
    assert done.returncode == 1
    assert f"{machine.root}/bazelw has 200 MB left" in done.stderr
    assert not list((machine.root / "bazelw").glob("root-*"))


def test_a_mode_that_is_none_is_refused(machine: Machine) -> None:
    assert "BAZELW_MODE is auto, connected or offline, not on" in machine.run("info", BAZELW_MODE="on").stderr
