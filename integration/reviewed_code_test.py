"""An engine whose code on disk is not what was reviewed: it says so wherever one looks, or does not start."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import policy_engine
from integration.harness.chain_file import ChainFile, chain, chains, policy
from integration.harness.client import send
from integration.harness.engine import EngineProcess
from integration.harness.processes import ProcessError
from integration.runtime_stack import TEST_POLICIES
from policy_engine.worker.policies.integrity import directory_digest


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="ep-", dir="/tmp") as name:
        root = Path(name)
        ChainFile(root / "chains.yaml").write(chains(chain("r", policy("holding", "v1"))))
        place = root / "policies/holding/v1.0.0"
        shutil.copytree(TEST_POLICIES / "holding/v1_0_0", place, ignore=shutil.ignore_patterns("__pycache__"))
        entry = {"name": "holding", "version": "v1.0.0", "directory": "holding/v1.0.0"}
        entry |= {"entrypoint": "policy:Holding", "digest": directory_digest(place)}
        (root / "policies/registry.json").write_text(json.dumps([entry]))
        # A copy: what lies beside it where it was built (tests, bytecode of other runs) was never reviewed.
        code = Path(policy_engine.__file__).parent
        shutil.copytree(code, root / "code/policy_engine", ignore=shutil.ignore_patterns("__pycache__"))
        engine = {"digest": directory_digest(root / "code/policy_engine", "policy_engine/")}
        (root / "policies/build-info.json").write_text(json.dumps({"engine": engine, "libraries": []}))
        yield root


def engine_in(directory: Path, **env: Any) -> EngineProcess:
    variables = {f"POLICY_ENGINE_{name}": value for name, value in env.items()}
    variables["PYTHONPATH"] = os.pathsep.join([str(directory / "code"), *filter(None, sys.path)])
    registry = directory / "policies/registry.json"
    return EngineProcess(directory, chains=directory / "chains.yaml", policies=registry, env=variables)


def change(directory: Path) -> None:
    with (directory / "policies/holding/v1.0.0/policy.py").open("a") as file:
        file.write("\n")


def test_what_was_reviewed_is_served_whatever_the_setting(directory: Path) -> None:
    for verify in ("strict", "report"):
        with engine_in(directory, POLICIES_VERIFY=verify) as engine:
            engine.ready()
            assert send(engine.admin.port, "GET", "/readyz").body == b"ready\n"
            information = engine.admin.document("/build-info")
            assert information["verification"]["state"] == "verified", information["verification"]
            assert set(engine.admin.samples("policy_engine_not_reviewed").values()) == {0.0}
            assert b"Code that was not reviewed" not in send(engine.admin.port, "GET", "/").body
            assert engine.stop() == 0


def test_a_changed_policy_is_shown_everywhere(directory: Path) -> None:
    (reviewed,) = json.loads((directory / "policies/registry.json").read_text())
    change(directory)
    with engine_in(directory) as engine:
        engine.ready()
        title = "policy holding v1.0.0"
        assert send(engine.admin.port, "GET", "/readyz").body.decode() == (
            f"ready\ndegraded: code runs what was not reviewed: {title}\n"
        )
        information = engine.admin.document("/build-info")
        (shown,) = information["policies"]
        assert shown["reviewed_digest"] == reviewed["digest"] != shown["digest"]
        assert shown["digest"] == directory_digest(directory / "policies/holding/v1.0.0")
        assert information["verification"]["state"] == "changed"
        samples = engine.admin.samples("policy_engine_not_reviewed")
        assert samples == {
            (("kind", "policy"), ("name", "holding v1.0.0")): 1.0,
            (("kind", "engine"), ("name", "")): 0.0,
        }
        page = send(engine.admin.port, "GET", "/").body.decode()
        assert "Code that was not reviewed runs" in page
        assert reviewed["digest"] in page
        assert engine.stop() == 0
        (line,) = [json.loads(one) for one in engine.log().splitlines() if '"not_reviewed"' in one]
        assert line["level"] == "warning"
        assert line["message"].startswith(f"{title} is not what was reviewed")


def test_strict_does_not_start_with_a_changed_policy(directory: Path) -> None:
    change(directory)
    with engine_in(directory, POLICIES_VERIFY="strict") as engine:
        with pytest.raises(ProcessError):
            engine.ready()
        assert "policy holding v1.0.0 is not what was reviewed" in engine.log()
