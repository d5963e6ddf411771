"""A directory of the cache is whole, whoever makes it, and how often."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy_builder.discover.made_once import made_once


def write(directory: Path, text: str) -> None:
    directory.mkdir()
    (directory / "file").write_text(text)


def test_it_is_made_once(tmp_path: Path) -> None:
    target = tmp_path / "cache/one"
    assert made_once(target, lambda directory: write(directory, "first")) == target
    assert made_once(target, lambda directory: write(directory, "second")) == target
    assert (target / "file").read_text() == "first"
    assert list(target.parent.iterdir()) == [target]


def test_one_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        write(directory, "half")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        made_once(tmp_path / "one", fail)
    assert list(tmp_path.iterdir()) == []


def test_another_that_was_faster_wins(tmp_path: Path) -> None:
    def slow(directory: Path) -> None:
        write(directory, "slow")
        write(tmp_path / "one", "fast")

    assert (made_once(tmp_path / "one", slow) / "file").read_text() == "fast"
