"""Imports of a policy: what it may, and a test for each that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy_builder.validate.imports import check_imports


def check(directory: Path, code: str, own: dict[str, str] | None = None, name: str = "policy.py") -> list[str]:
    files = {}
    for file, text in {name: code, "rules.py": ""}.items():
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        files[file] = path
    return [str(one) for one in check_imports("p", files, own or {"jwt": "PyJWT 2.15.1"}, {"grpc": "grpcio==1.85.1"})]


@pytest.mark.parametrize(
    "code",
    [
        "import json, os.path\nfrom collections import abc\n",
        "from policy_engine.sdk import Policy\nimport policy_engine.sdk as sdk\nfrom policy_engine import sdk\n",
        "from . import rules\nfrom .rules import x\n",
        "import jwt.algorithms\nfrom jwt import decode\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import redis\n",
        "import typing\nif typing.TYPE_CHECKING:\n    import redis\n",
        "try:\n    import orjson as json\nexcept ImportError:\n    import json\n",
        "try:\n    import orjson as json\nexcept (ValueError, ModuleNotFoundError):\n    import json\n",
    ],
)
def test_accepted(tmp_path: Path, code: str) -> None:
    assert check(tmp_path, code) == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("\nimport redis\n", "p/policy.py:2:1: imports redis, which none of its requirements brings"),
        ("def f():\n    from redis import asyncio\n", "p/policy.py:2:5: imports redis"),
        ("try:\n    import redis\nexcept ValueError:\n    pass\n", "imports redis"),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import redis\n", "imports redis"),
        (
            "import grpc\n",
            "imports grpc, which is there only because the engine needs it today; allowed: pin grpcio==1.85.1",
        ),
        (
            "import rules\n",
            "imports its own module rules absolutely; another policy may have one of that name; allowed: from .",
        ),
        ("from .. import other\n", "imports from above the policy's own directory"),
        ("import policy_engine\n", "imports policy_engine, which is the engine's inside"),
        ("from policy_engine.kernel import session\n", "imports policy_engine.kernel, which is the engine's inside"),
        ("from policy_engine import kernel\n", "imports policy_engine.kernel"),
        ("from policy_engine.sdk.testing import run\n", "imports the test kit, which is for tests"),
        ("import policy_engine.sdk.testing\n", "imports the test kit"),
        (
            "from policy_engine.kit.running import run\n",
            "imports policy_engine.kit.running, which is the engine's inside",
        ),
        ("import policy_engine.sdkx\n", "imports policy_engine.sdkx"),
        ("def (:\n", "p/policy.py:1:5: is not valid Python"),
    ],
)
def test_refused(tmp_path: Path, code: str, expected: str) -> None:
    assert expected in "\n".join(check(tmp_path, code))


def test_a_module_deeper_in_the_policy_may_import_from_above_itself(tmp_path: Path) -> None:
    assert check(tmp_path, "from ..rules import x\n", name="parts/one.py") == []
    (finding,) = check(tmp_path, "from ...rules import x\n", name="parts/one.py")
    assert finding.startswith("p/parts/one.py:1:1: imports from above")


def test_without_knowing_the_requirements_third_party_imports_are_not_judged(tmp_path: Path) -> None:
    (tmp_path / "policy.py").write_text("import redis\nimport policy_engine.kernel\n")
    (finding,) = check_imports("p", {"policy.py": tmp_path / "policy.py"}, None)
    assert "policy_engine.kernel" in str(finding)
