"""What is told of chains that could not be put into effect."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from policy_engine.sources.chain_reader import ChainReader
from policy_engine.sources.file_source import FileSource
from policy_engine.sources.source import LoadReport, why_not_applied
from policy_engine.worker.chains.spec import ChainsSpec, PolicySpec, RouteSpec
from policy_engine.worker.policies.registry import Registry


def chains(parameters: dict[str, Any], *secrets: str) -> ChainsSpec:
    policy = PolicySpec("a", "v1.0.0", parameters=parameters, secrets=frozenset(secrets))
    return ChainsSpec((RouteSpec("r", (policy,)),))


@pytest.mark.parametrize(
    ("parameters", "pointer"),
    [
        ({"key": "hunter2"}, "/key"),
        ({"users": [{"x/y": "hunter2"}]}, "/users/0/x~1y"),
        ({"whole": {"user": "ann", "password": "hunter2"}}, "/whole"),
        ({"all": ["hunter2", "hunter22"]}, "/all"),
        ({"line": "hunter2\nnext"}, "/line"),
        ({"pin": 734512}, "/pin"),
    ],
)
@pytest.mark.parametrize("quoted", [str, repr])
def test_no_secret_is_told_however_it_is_quoted(parameters: dict[str, Any], pointer: str, quoted: Any) -> None:
    said = why_not_applied(ValueError(f"refused {quoted(parameters)}"), chains(parameters, pointer))
    assert "hunter2" not in said
    assert "734512" not in said
    assert "ValueError: refused" in said


def test_what_is_no_secret_is_told() -> None:
    said = why_not_applied(ValueError("limit 5 of ann"), chains({"limit": 5, "user": "ann", "empty": ""}, "/empty"))
    assert said.startswith("could not be put into effect: ValueError: limit 5 of ann")


def test_in_file_mode_a_refusal_tells_no_secret_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "chains.yaml"
    file.write_text("version: 1\nroutes: []\n")
    reports: list[LoadReport] = []

    async def refuse(_: ChainsSpec) -> None:
        raise ValueError("worker 0: hunter2 is no good key")

    source = FileSource(file, ChainReader(Registry([])), refuse, reports.append)
    read = source._read
    monkeypatch.setattr(
        FileSource, "_read", lambda self, *given: _with(read(*given), chains({"key": "hunter2"}, "/key"))
    )
    asyncio.run(source.load())
    (report,) = reports
    assert not report.accepted
    assert "hunter2" not in str(report.diagnostics)
    assert "***" in str(report.diagnostics)


def _with(loaded: Any, spec: ChainsSpec) -> Any:
    return type(loaded)(spec, loaded.diagnostics, loaded.secret_files)
