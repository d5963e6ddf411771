"""One tiny run from end to end, so that what nobody runs daily does not rot. No number of it is looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.run.results import read
from benchmarks.scenarios.named import NO_FILTER, native

TINY = ["--scenario", "smoke", "--rounds", "1", "--seconds", "1", "--without-cpp", "--no-plots"]


def test_a_run_leaves_a_report_of_requests_that_all_succeeded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    assert main([*TINY, "--json", "--output", str(first)]) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out) == json.loads((first / "results.json").read_text())
    results = read(first / "results.json")
    assert results.lanes("smoke") == [NO_FILTER, native("5 policies")]
    for sample in results.samples:
        assert sample.values["requests"] > 0, sample
        assert sample.values["failed"] == 0, sample
    # The chain has a request and a response phase; what was in flight when the load ended makes it inexact.
    assert results.values("smoke", native("5 policies"), "messages") == pytest.approx([2.0], rel=0.2)
    assert results.values("smoke", NO_FILTER, "messages") == [0.0]
    assert all(cpu > 0 for cpu in results.values("smoke", native("5 policies"), "server_cpu_us"))
    report = (first / "results.md").read_text()
    assert f"| {native('5 policies')} |" in report

    assert main(["--render", str(first / "results.json"), "--no-plots", "--output", str(again)]) == 0
    assert (again / "results.md").read_text() == report


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--seconds", "3600"], ["--scenario", "no-such"]])
def test_what_is_not_bounded_or_not_known_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


def test_without_a_compiler_it_is_said_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for tool in ("wrk", "h2load"):
        (tmp_path / tool).write_text("#!/bin/sh\necho 1\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["--scenario", "throughput", "--output", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert "apt-get install g++" in told
    assert "--without-cpp" in told
    assert not (tmp_path / "out").exists()
