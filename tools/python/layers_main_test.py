"""That an import against the arrows is found wherever it stands, and that the tree has none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tools.python.layers_main import (
    ANY,
    BUILDER,
    DISTRIBUTIONS,
    ENGINE,
    LAYERS,
    circles,
    findings,
    layer_of,
    modules,
    wrong_arrows,
    wrong_in_policies,
)

FAKE = {
    "app": frozenset[str](),
    "app.low": frozenset[str](),
    "app.high": frozenset({"app.low"}),
    "app.high.top": frozenset({"app.high"}),
    "app.main": frozenset({ANY}),
}


def tree(root: Path, files: Mapping[str, str]) -> dict[str, Path]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return modules([root])


@pytest.mark.parametrize(
    "text",
    [
        "import app.high.a",
        "import os, app.high.a as a",
        "from app.high import a",
        "from app.high.a import name",
        "from app import high",
        "from ..high import a",
        "from ..high.a import name",
        "def function():\n    from app.high import a",
        "class A:\n    def method(self):\n        import app.high.a",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from app.high.a import name",
        "try:\n    import app.high.a\nexcept ImportError:\n    pass",
        "async def function():\n    for _ in ():\n        with open(''):\n            from app.high.top import b",
    ],
)
def test_an_arrow_turned_round_is_found_wherever_it_stands(text: str, tmp_path: Path) -> None:
    known = tree(
        tmp_path,
        {
            "app/__init__.py": "",
            "app/low/__init__.py": "",
            "app/low/b.py": text,
            "app/high/__init__.py": "",
            "app/high/a.py": "from app.low import b\n",
            "app/high/top.py": "from app.high import a\n",
        },
    )
    (found,) = wrong_arrows(known, FAKE)
    assert "app.low.b imports app.high" in found
    assert f"b.py:{next(n for n, line in enumerate(text.splitlines(), 1) if 'high' in line)}:" in found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("app/high/a.py", "from app.low.b import x"),
        ("app/high/a.py", "from ..low import b"),
        ("app/high/a.py", "from . import c"),
        ("app/high/top.py", "import app.high.a"),
        ("app/main.py", "from app.high import top\nfrom app.low import b"),
        ("app/low/b_test.py", "from app.high import a"),
        ("app/low/b.py", "import highland, other.app.high\nTEXT = 'import app.high'"),
    ],
)
def test_what_points_down_is_left_alone(name: str, text: str, tmp_path: Path) -> None:
    files = {"app/low/b.py": "x = 1", "app/high/a.py": "", "app/high/c.py": "", "app/high/top.py": "", name: text}
    assert list(wrong_arrows(tree(tmp_path, files), FAKE)) == []


def test_a_higher_part_of_a_layer_is_not_the_layer(tmp_path: Path) -> None:
    known = tree(tmp_path, {"app/high/a.py": "from app.high.top import x", "app/high/top.py": ""})
    assert len(list(wrong_arrows(known, FAKE))) == 1


@pytest.mark.parametrize("name", ["app/new/c.py", "app/new.py", "other.py"])
def test_a_module_of_no_layer_is_told(name: str, tmp_path: Path) -> None:
    (found,) = wrong_arrows(tree(tmp_path, {name: ""}), FAKE)
    assert "belongs to no layer" in found


@pytest.mark.parametrize(
    "files",
    [
        {"a.py": "import b", "b.py": "import a"},
        {"a.py": "import b", "b.py": "def f():\n    import c", "c.py": "if True:\n    from a import x"},
        {"p/__init__.py": "from p.a import x", "p/a.py": "from p import x"},
        {"p/a.py": "from .b import x", "p/b.py": "from . import a"},
    ],
)
def test_a_circle_is_found(files: dict[str, str], tmp_path: Path) -> None:
    known = tree(tmp_path, {**files, "outside.py": "import a"})
    (circle,) = circles(known)
    assert set(circle) == set(known) - {"outside"}


def test_a_package_that_gathers_its_modules_is_no_circle(tmp_path: Path) -> None:
    files = {"p/__init__.py": "from p.a import x\nfrom p.b import y", "p/a.py": "", "p/b.py": "from p.a import x"}
    assert circles(tree(tmp_path, files)) == []


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("from policy_engine.sdk import Policy", True),
        ("from policy_engine.sdk.json_pointer import find", True),
        ("import json, re2\nimport jwt\nfrom offered import x\nfrom . import rules\nfrom .deep.rules import x", True),
        ("from policy_engine.sdk.testing import run", False),
        ("from policy_engine.worker.chains import spec", False),
        ("from policy_engine import __version__", False),
        ("import policy_engine", False),
        ("def f():\n    import policy_engine.kernel.kernel", False),
        ("import redis", False),
        ("from policies.other import x", False),
        ("from ..v2_0_0 import policy", False),
        ("from ...other.v1_0_0 import policy", False),
    ],
)
def test_what_a_policy_imports(text: str, allowed: bool, tmp_path: Path) -> None:
    own = "guard-it/v1_0_0"
    files = {
        f"{own}/requirements.txt": "# pins\ngoogle-re2==1 \\\n    --hash=sha256:0\nPyJWT[crypto]==2\n",
        f"{own}/policy.py": text,
        f"{own}/policy_test.py": "from policy_engine.sdk.testing import run",
        "shared/offered/__init__.py": "import redis\nfrom policy_engine.sdk import Policy",
        "shared/offered/testing.py": "from policy_engine.sdk.testing import run",
    }
    tree(tmp_path, files)
    assert (list(wrong_in_policies(tmp_path)) == []) is allowed


def test_what_policies_share_knows_the_sdk_alone(tmp_path: Path) -> None:
    tree(tmp_path, {"shared/offered/__init__.py": "from policy_engine.documents import diagnostics"})
    assert len(list(wrong_in_policies(tmp_path))) == 1


@pytest.mark.parametrize("name", ["sdk", "limits"])
def test_what_authors_import_needs_no_third_party_package(name: str, tmp_path: Path) -> None:
    known = tree(tmp_path, {f"policy_engine/{name}/x.py": "import json\nimport yaml"})
    (found,) = wrong_arrows(known, LAYERS)
    assert "imports yaml" in found


@pytest.mark.parametrize("layers", [ENGINE, BUILDER])
def test_the_table_itself_has_no_circle_and_no_unknown_name(layers: Mapping[str, str]) -> None:
    done: set[str] = set()
    left = {name: {*allowed.split()} - {ANY} for name, allowed in layers.items()}
    assert {one for allowed in left.values() for one in allowed} <= set(layers)
    while left:
        ready = {name for name, allowed in left.items() if allowed <= done}
        assert ready, f"in a circle: {sorted(left)}"
        done |= ready
        left = {name: allowed for name, allowed in left.items() if name not in ready}


def test_longest_names_decide() -> None:
    assert layer_of("policy_engine.sdk.testing", LAYERS) == "policy_engine.sdk.testing"
    assert layer_of("policy_engine.sdk.actions", LAYERS) == "policy_engine.sdk"
    assert layer_of("policy_engine.worker.chains.spec", LAYERS) == "policy_engine.worker.chains"
    assert layer_of("json", LAYERS) is None
    assert DISTRIBUTIONS.keys() == {name.lower() for name in DISTRIBUTIONS}


def test_every_import_of_this_repository_points_down() -> None:
    workspace = next(
        (one for one in Path(__file__).resolve().parents if (one / "engine" / "policy_engine" / "sdk").is_dir()), None
    )
    if workspace is None:
        pytest.skip("the sources are not beside this test; //:layers reads them")
    assert findings(workspace) == []
