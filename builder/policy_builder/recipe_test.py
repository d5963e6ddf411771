"""What belongs in an image, as the recipe says to Bazel and `policy-builder` alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from policy_builder import recipe
from policy_builder.testworld import World, names

POLICY_FILES = {
    "policy.py": "image",
    "rules/table.json": "image",
    "tests.json": "image",
    "testdata.json": "image",
    "buildings/BUILDER": "image",
    "build": "image",
    "policy_test.py": "test",
    "rules/deep_test.py": "test",
    "conftest.py": "test",
    "testdata/body.bin": "test",
    "rules/testdata/deep/x": "test",
    "BUILD": "debris",
    "BUILD.bazel": "debris",
    "old.pyc": "debris",
    "old.pyo": "debris",
    "__pycache__/old.cpython-313.pyc": "debris",
    "__pycache__/notes.txt": "debris",
    ".hidden": "debris",
    ".cache/x.py": "debris",
    "rules/.editor/x": "debris",
}
"""Files of a policy, and what each is there for."""


@pytest.mark.parametrize(("name", "kind"), POLICY_FILES.items())
def test_what_a_file_of_a_policy_is_there_for(name: str, kind: str) -> None:
    assert recipe.belongs_in_image(name) is (kind == "image")
    assert recipe.is_debris(name) is (kind == "debris")
    if kind != "debris":
        assert recipe.is_test(name) is (kind == "test")


def test_an_image_has_the_files_that_belong_in_it(world: World, tmp_path: Path) -> None:
    directory = world.policy("one")
    for name in POLICY_FILES:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        if not (directory / name).exists():
            (directory / name).write_text("")
    world.build(tmp_path / "out")
    prefix = "app/policies/one/v1.0.0/"
    found = {name.removeprefix(prefix) for name, entry in names(tmp_path / "out/oci").items() if entry.isreg()}
    assert found & set(POLICY_FILES) == {name for name, kind in POLICY_FILES.items() if kind == "image"}


@pytest.mark.parametrize("name", ["data/BUILD", "data/BUILD.bazel", "testdata/deep/BUILD"])
def test_a_package_of_bazel_inside_a_policy_is_refused(world: World, name: str) -> None:
    directory = world.policy("one")
    (directory / name).parent.mkdir(parents=True)
    (directory / name).write_text("")
    assert f"policies/one/v1_0_0/{name}: makes its directory another package for Bazel" in world.report()


@pytest.mark.parametrize(
    ("name", "belongs"),
    [
        ("xds/core.py", True),
        ("_brotli.cpython-313-x86_64-linux-gnu.so", True),
        ("xds_protos-1.85.0.dist-info/METADATA", True),
        ("numpy.libs/libgfortran-040039e1.so", True),
        ("google/api-core/x.py", True),
        ("bazel-project/bazel-out/x_pb2.py", False),
        ("yaml-stubs/__init__.pyi", False),
        ("setuptools/script (dev).tmpl", False),
    ],
)
def test_of_a_wheel_only_what_an_import_can_lead_to(name: str, belongs: bool) -> None:
    assert recipe.wheel_belongs_in_image(name) is belongs


@pytest.mark.parametrize(("count", "layers"), [(0, 0), (1, 1), (100, 100), (101, 51), (200, 100), (1000, 100)])
def test_many_policies_share_layers(count: int, layers: int) -> None:
    policies = [(f"policy-{number}", [number]) for number in range(count)]
    found = recipe.layers([-1], [-2], [], policies, [-3])
    assert [name for name, _ in found[:2]] == ["requirements", "engine"]
    assert found[-1] == ("registry", [-3])
    assert len(found) == 3 + layers
    assert [entry for _, entries in found[2:-1] for entry in entries] == list(range(count))


def test_the_engine_is_imported_from_what_images_take_of_wheels() -> None:
    """Every module of the engine, and every one that it imports late, where the rest of the wheels cannot be found."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "policy_engine.cli" in done.stdout
    assert "opentelemetry.exporter" in done.stdout
    assert "cel_expr_python.ext" not in done.stdout


IMPORTS = """
import ast, importlib, importlib.machinery, pkgutil, sys
from pathlib import Path
sys.path[:0] = %r
from policy_builder.recipe import wheel_belongs_in_image
site = {Path(one).absolute() for one in sys.path if Path(one).name in ("site-packages", "dist-packages")}

class Pruned(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        origin = Path(spec.origin).absolute() if spec is not None and spec.origin else None
        for root in site:
            if origin is not None and origin.is_relative_to(root):
                if not wheel_belongs_in_image(origin.relative_to(root).as_posix()):
                    raise ModuleNotFoundError(f"{name} is not in images", name=name)
        return spec

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Pruned

def imported(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "celpy":  # the engine of conditions where there is no cel-expr-python, which images have
            raise

import policy_engine
modules = [one.name for one in pkgutil.walk_packages(policy_engine.__path__, "policy_engine.")]
for name in modules:
    if name.endswith("_test") or "sdk.testing" in name or ".kit" in name or name.endswith("__main__"):
        continue
    spec = importlib.util.find_spec(name)
    for node in ast.walk(ast.parse(Path(spec.origin).read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            module = imported(node.module)
            for alias in node.names:
                if module is not None and not hasattr(module, alias.name):
                    imported(f"{node.module}.{alias.name}")
    imported(name)
from policy_engine.telemetry.spans import OpenTelemetryTracing
OpenTelemetryTracing("http://127.0.0.1:9", 1.0, "test", 0).close()
print(*sys.modules, sep="\\n")
""" % [path for path in sys.path if path]  # fmt: skip
