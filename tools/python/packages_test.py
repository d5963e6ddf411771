"""The packages of this repository as an installer sees them: what is in each wheel, and what it says it needs."""

from __future__ import annotations

import configparser
import email
import email.message
import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from policy_builder import recipe
from policy_builder.discover.digests import files_digest
from policy_builder.discover.engine_source import read_engine
from policy_builder.discover.platform import Platform
from policy_builder.discover.requirements_file import read_requirements
from policy_engine.scaffold import scaffold

ROOT = Path(__file__).resolve().parents[2] if "TEST_SRCDIR" not in os.environ else Path.cwd()
PACKAGES = {"engine": "policy_engine", "builder": "policy_builder", "controlplane": "policy_control_plane"}
"""Directories with a pyproject.toml, and the import package that each brings."""

NOT_INSTALLED = {"policy_builder/testregistry.py", "policy_builder/testworld.py"}
"""Support of tests that is not named like a test."""

BUNDLED = {"launch.py", "requirements_lock.txt", "debian.lock.json"}
PYTHONS = ("3.11", "3.12", "3.13")


@dataclass(frozen=True)
class Wheel:
    """A wheel that was built: where, the names in it, and its metadata."""

    path: Path
    names: frozenset[str]
    metadata: email.message.Message
    left: frozenset[Path]
    """What building it added to the checkout."""

    def text(self, name: str) -> str:
        (found,) = (one for one in self.names if one.endswith(f".dist-info/{name}"))
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(found).decode()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Wheel]:
    root = tmp_path_factory.mktemp("checkout")
    for part in (*PACKAGES, "requirements_lock.txt", "tools/image/debian.lock.json"):
        (root / part).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile)(ROOT / part, root / part)
    built = {}
    for directory, package in PACKAGES.items():
        for debris in ("added_test.py", "conftest.py", "testdata/x.json", "BUILD"):
            (root / directory / package / debris).parent.mkdir(exist_ok=True)
            (root / directory / package / debris).write_text("")
        before = set((root / directory).rglob("*"))
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(root / "dist" / directory)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            command, cwd=root / directory, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        left = frozenset(set((root / directory).rglob("*")) - before)
        (path,) = (root / "dist" / directory).glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            names = frozenset(name for name in archive.namelist() if not name.endswith("/"))
            (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
            built[directory] = Wheel(path, names, email.message_from_bytes(archive.read(metadata)), left)
    return built


@pytest.mark.parametrize(("directory", "package"), PACKAGES.items())
def test_a_wheel_has_the_package_without_its_tests(wheels: dict[str, Wheel], directory: str, package: str) -> None:
    files = [file for file in (ROOT / directory / package).rglob("*") if file.is_file()]
    names = {file.relative_to(ROOT / directory).as_posix() for file in files}
    expected = {name for name in names if recipe.belongs_in_image(name)} - NOT_INSTALLED
    if directory == "builder":
        expected |= {f"policy_builder/bundled/{name}" for name in BUNDLED}
    assert {name for name in wheels[directory].names if ".dist-info/" not in name} == expected
    assert f"{package}/py.typed" in expected


def test_building_a_wheel_leaves_nothing_in_the_checkout(wheels: dict[str, Wheel]) -> None:
    assert {directory: wheel.left for directory, wheel in wheels.items()} == dict.fromkeys(PACKAGES, frozenset())


@pytest.mark.parametrize(("directory", "package"), PACKAGES.items())
def test_a_wheel_says_what_it_is(wheels: dict[str, Wheel], directory: str, package: str) -> None:
    wheel = wheels[directory]
    assert wheel.metadata["Name"] == package.replace("_", "-")
    assert wheel.metadata["License-Expression"] == "Apache-2.0"
    assert "Apache License" in wheel.text("licenses/LICENSE")
    assert wheel.metadata["Requires-Python"] == ">=3.11"
    assert wheel.metadata["Summary"]
    assert str(wheel.metadata.get_payload()).startswith("# ")
    stated = {one.rpartition(" :: ")[2] for one in wheel.metadata.get_all("Classifier") or ()}
    assert {*PYTHONS, "Typed"} <= stated
    scripts = configparser.ConfigParser(delimiters=("=",))
    scripts.read_string(wheel.text("entry_points.txt"))
    for _, entry in scripts.items("console_scripts"):
        module, _, function = entry.partition(":")
        assert f"{module.replace('.', '/')}.py" in wheel.names
        assert callable(getattr(import_module(module), function))


def requirements(directory: str) -> list[Requirement]:
    """Return what the package in `directory` requires, with its extras, but for packages of this repository."""
    project = tomllib.loads((ROOT / directory / "pyproject.toml").read_text())["project"]
    lines = [
        *project["dependencies"],
        *(one for many in project.get("optional-dependencies", {}).values() for one in many),
    ]
    return [one for one in map(Requirement, lines) if one.name.replace("-", "_") not in PACKAGES.values()]


@pytest.mark.parametrize("machine", ["amd64", "arm64"])
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_one_fitting_version_for_every_python(python: str, machine: str) -> None:
    environment = Platform(machine).marker_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.2",
        "implementation_version": f"{python}.2",
    }
    lock = read_requirements(ROOT / "requirements_lock.txt", environment)
    assert not lock.diagnostics
    for requirement in (one for directory in PACKAGES for one in requirements(directory)):
        if requirement.name == "pip":
            continue  # with every Python
        pin = lock.pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin.version, prereleases=True), f"{requirement} but {pin}"


def test_a_package_has_one_line_in_the_lock() -> None:
    """Whatever the Python: the stand-in for rules_python has one repository for each name."""
    lines = [line for line in (ROOT / "requirements_lock.txt").read_text().splitlines() if line[:1].isalpha()]
    names = [line.partition("==")[0].partition("[")[0] for line in lines]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("directory", PACKAGES)
def test_requirements_are_bounded(directory: str) -> None:
    for requirement in requirements(directory):
        operators = {one.operator for one in requirement.specifier}
        assert ">=" in operators, requirement
        # The first number of a calendar version says nothing.
        assert "<" in operators or requirement.name in ("packaging", "pip"), requirement


def test_every_policy_finds_its_requirements_in_its_extra() -> None:
    project = tomllib.loads((ROOT / "engine/pyproject.toml").read_text())["project"]
    extras = {name: [Requirement(one) for one in many] for name, many in project["optional-dependencies"].items()}
    own = {canonicalize_name(Requirement(one).name) for one in project["dependencies"]}
    (everything,) = extras.pop("policies")
    assert everything.name == project["name"]
    assert everything.extras == set(extras)
    needed: dict[str, dict[str, Version]] = {}
    for file in (ROOT / "policies").glob("*/v*/requirements.txt"):
        pins = read_requirements(file, Platform().marker_environment()).pins
        versions = {name: Version(pin.version) for name, pin in pins.items() if name not in own}
        if versions:
            needed.setdefault(file.parts[-3], {}).update(versions)
    assert {policy: set(versions) for policy, versions in needed.items()} == {
        extra: {canonicalize_name(one.name) for one in many} for extra, many in extras.items()
    }
    for policy, versions in needed.items():
        for requirement in extras[policy]:
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), (policy, requirement)


INSTALLED = """
import json
from policy_builder.discover.digests import files_digest
from policy_builder.discover.engine_source import read_engine
from policy_builder.discover.workspace import find_workspace
workspace = find_workspace()
engine = read_engine(workspace.engine)
print(json.dumps([
    engine.version, files_digest(engine.files), sorted(str(one).lower() for one in engine.requires), engine.launcher.read_text(),
    workspace.lock.read_text(), workspace.debian_lock.read_text(),
]))
"""


def test_an_installed_builder_builds_of_what_a_checkout_has(wheels: dict[str, Wheel], tmp_path: Path) -> None:
    for directory in ("engine", "builder"):
        with zipfile.ZipFile(wheels[directory].path) as archive:
            archive.extractall(tmp_path / "site")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-P", "-c", INSTALLED],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    engine = read_engine(ROOT / "engine")
    assert json.loads(done.stdout) == [
        engine.version,
        files_digest(engine.files),
        sorted(str(one).lower() for one in engine.requires),
        (ROOT / "engine/launch.py").read_text(),
        (ROOT / "requirements_lock.txt").read_text(),
        (ROOT / "tools/image/debian.lock.json").read_text(),
    ]


def test_an_author_checks_a_directory_of_policies_with_mypy(wheels: dict[str, Wheel], tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheels["engine"].path) as archive:
        archive.extractall(site)
    for name in ("add-tenant", "add-team"):
        scaffold(name, tmp_path / "policies")

    def check(policy: str) -> str:
        command = [sys.executable, "-m", "mypy", "--strict", "--explicit-package-bases", "--no-incremental"]
        command += ["--python-executable", str(tmp_path / "venv/bin/python"), "v1_0_0/policy.py"]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            command, cwd=tmp_path / "policies" / policy, env=environment, capture_output=True, text=True, check=False
        ).stdout

    assert check("add-tenant").startswith("Success")
    policy = tmp_path / "policies/add-team/v1_0_0/policy.py"
    policy.write_text(policy.read_text().replace("request: Request", "request: int"))
    assert "[override]" in check("add-team")
