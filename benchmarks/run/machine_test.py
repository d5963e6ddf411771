"""Results name the commit they are of, whoever owns the checkout and whether git is there or not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from integration.harness.machine import facts

# The system that ./bazelw builds has git; who runs the fast tests elsewhere may have a download without it.
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(directory: Path, *arguments: str) -> str:
    options = ["-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *options, *arguments], cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    made = tmp_path / "checkout"
    made.mkdir()
    git(made, "init", "-q")
    git(made, "commit", "-q", "--allow-empty", "-m", "one")
    return made


def commit_of(directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(directory))
    return facts()["commit"]


@pytest.mark.parametrize("variable", ["GIT_TEST_ASSUME_DIFFERENT_OWNER", "SOME_OTHER"])
def test_the_commit_is_named_also_of_somebody_elses_checkout(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    expected = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv(variable, "1")
    found = commit_of(checkout, monkeypatch)
    assert len(found) >= 7
    assert expected.startswith(found)


@pytest.mark.parametrize("how", ["branch", "packed", "detached", "worktree"])
def test_the_commit_is_named_without_git(checkout: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    expected = git(checkout, "rev-parse", "HEAD")
    if how == "packed":
        git(checkout, "pack-refs", "--all")
    elif how == "detached":
        git(checkout, "checkout", "-q", "--detach")
    elif how == "worktree":
        git(checkout, "worktree", "add", "-q", "-b", "other", "../beside")
        checkout = checkout.parent / "beside"
    monkeypatch.setenv("PATH", "/nowhere")
    assert commit_of(checkout, monkeypatch) == expected[:12]


def test_without_a_checkout_it_is_said_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit_of(tmp_path, monkeypatch).startswith("unknown (")
