"""What `tools/check` runs, what it says is missing, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tools.python import check_main
from tools.python.check_main import SLOW, WORKSPACE, Job, check, fast_tests, jobs, locked, main, missing
from tools.python.mypy_main import python_files
from tools.python.pytest_main import FEW_EXAMPLES, examples


def test_every_test_is_fast_or_has_a_reason() -> None:
    fast = set(fast_tests(WORKSPACE))
    assert Path("tools/python/check_main_test.py") in fast
    for file in python_files(WORKSPACE):
        if file.name.endswith("_test.py"):
            assert (file in fast) != any(file.is_relative_to(directory) for directory in SLOW), file
    for directory in SLOW:
        assert any(file.is_relative_to(directory) for file in python_files(WORKSPACE)), f"{directory} is empty"


def test_every_fast_test_is_in_one_job() -> None:
    prepared = [job for job in jobs(WORKSPACE, ["tests"], 3) if job.name.startswith("tests")]
    files = [word for job in prepared for word in job.command if word.endswith("_test.py")]
    assert sorted(files) == sorted(map(str, fast_tests(WORKSPACE)))


def test_the_lock_is_read(tmp_path: Path) -> None:
    (tmp_path / "requirements_lock.txt").write_text(
        "# a comment\nsome-package[extra]==1.2.3 \\\n    --hash=sha256:00\n    # via other==9\nfor-others==3 ; python_full_version < '3' \\\nfor-all==4 ; python_full_version >= '3' \\\nother==2\n"
    )
    assert locked(tmp_path) == {"some-package": "1.2.3", "for-all": "4", "other": "2"}


def test_what_is_missing_is_named_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "requirements_lock.txt").write_text("".join(f"no-such-package-{number}==1\n" for number in range(9)))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check(tmp_path, ["tests"], 1) == 3
    printed = capsys.readouterr().err
    assert "no-such-package-0" in printed
    assert "and 3 more" in printed
    assert "-m pip install -r requirements_lock.txt" in printed
    assert "apt-get install redis-server" in printed
    assert not [one for one in missing(tmp_path, ["ruff"]) if "redis" in one]


def test_a_failure_is_shown_and_decides_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "requirements_lock.txt").write_text("")
    bad = Job("bad", (sys.executable, "-c", "print('what went wrong'); raise SystemExit(5)"))
    good = Job("good", (sys.executable, "-c", "print('nobody wants to read this')"))
    monkeypatch.setattr(check_main, "jobs", lambda *_: [bad, good])
    assert check(tmp_path, [], 2) == 1
    printed = capsys.readouterr().out
    assert "what went wrong" in printed
    assert "nobody wants" not in printed
    assert "1 of 2 failed: bad" in printed
    monkeypatch.setattr(check_main, "jobs", lambda *_: [good])
    assert check(tmp_path, [], 2) == 0


def test_parts_that_are_not_there_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["lint"])
    assert ended.value.code == 2
    assert "ruff, layers, mypy, tests" in capsys.readouterr().err


def test_the_command_runs_from_anywhere(tmp_path: Path) -> None:
    command = [sys.executable, str(WORKSPACE / "tools/check"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "fast tests" in done.stdout


def test_property_tests_try_fewer_examples_than_with_bazel(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = {}
    for wanted in ("all", "quick"):
        monkeypatch.setenv("TESTS", wanted)
        tried[wanted] = settings.get_profile(examples()).max_examples
    assert tried["quick"] == FEW_EXAMPLES < tried["all"]
