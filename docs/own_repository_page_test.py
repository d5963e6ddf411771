"""The page about a repository of one's own shows what is in examples/own-repository, which Bazel builds as it is."""

from __future__ import annotations

import re

import pytest

from docs.pages import WORKSPACE, blocks

PAGE = WORKSPACE / "docs/use-from-your-repository.md"
EXAMPLE = WORKSPACE / "examples/own-repository"
BESIDE = "../policy-engine"
"""Where the page has the engine; from the example it is two directories up."""

_FILE = re.compile(r"^cat > (\S+) <<'END'\n(.*?)^END$", re.MULTILINE | re.DOTALL)
FILES = dict(pair for block in blocks(PAGE) for pair in _FILE.findall(block.text))


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_of_the_page_is_that_of_the_example(name: str) -> None:
    assert FILES[name].replace(BESIDE, "../..") == (EXAMPLE / name).read_text(encoding="utf-8")


def test_the_page_has_every_file_of_the_example() -> None:
    there = {path.name for path in EXAMPLE.iterdir() if path.is_file() and path.name != ".gitignore"}
    assert there == set(FILES)


def test_the_page_names_the_version_of_bazel_there_is_without_the_registry() -> None:
    version = (WORKSPACE / ".bazelversion").read_text(encoding="utf-8").strip()
    assert f"Debian's {version}." in PAGE.read_text(encoding="utf-8")
