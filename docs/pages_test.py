"""Pages lead where they say, read well as text, and keep the maintainers' numbers from those who only run the product."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from docs.pages import TOP, WORKSPACE, blocks, commands, pages, prose

LONGEST = 129
MOST_TESTS = 2
FOR_CONTRIBUTORS = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/proof.md",
    "docs/proof-configuration.md",
    "docs/requirements.md",
)
"""Pages that may cite requirements by their ids; nobody else has the list at hand."""

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`")
_ID = re.compile(r"\b[RK]-?\d{1,2}\b")
_WORKER = re.compile(r"\b[Ww]orkers?\b(?!\s(?:process|thread)|-)")
_CELL = re.compile(r"(?<!\\)\|")


def _named(page: Path) -> str:
    return str(page.relative_to(WORKSPACE))


every_page = pytest.mark.parametrize("page", pages(), ids=_named)


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for number, line in prose(page):
        for target in _LINK.findall(line):
            if re.match(r"\w+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"line {number}: {target}"
            if anchor:
                assert anchor in _anchors(file), f"line {number}: {target}"


def _anchors(page: Path) -> set[str]:
    headings = [line.lstrip("#").strip() for _, line in prose(page) if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_paths_are_there(page: Path) -> None:
    for number, line in prose(page):
        for code in _CODE.findall(line):
            # A path of the tree, not a placeholder (NAME, vX_Y_Z) and not what the guides make.
            if re.fullmatch(r"[a-z_][\w.*-]*(/[\w.*-]+)+/?", code) and code.split("/")[0] in TOP and "NAME" not in code:
                assert any(WORKSPACE.glob(code.rstrip("/"))) or "add-tenant" in code, f"line {number}: {code}"


@every_page
def test_lines_are_short(page: Path) -> None:
    long = [number for number, line in prose(page) if len(line) > LONGEST and not line.startswith("|")]
    assert not long, f"lines of more than {LONGEST} characters: {long}"


@every_page
def test_cells_of_tables_are_no_lists_of_tests(page: Path) -> None:
    for number, line in prose(page):
        if line.startswith("|"):
            assert all(cell.count("`test_") <= MOST_TESTS for cell in _CELL.split(line)), f"line {number}"


@every_page
def test_worker_is_the_name_of_a_layer(page: Path) -> None:
    """docs/architecture.md, "Glossary": processes are "worker processes", always both words."""
    if page.is_relative_to(WORKSPACE / "benchmarks/results"):  # written by a run
        return
    text = _CODE.sub("", "\n".join(line for _, line in prose(page) if "the layer" not in line))
    assert [text[match.start() - 40 : match.end() + 20] for match in _WORKER.finditer(text)] == []


@every_page
def test_only_contributors_read_ids(page: Path) -> None:
    if _named(page) in FOR_CONTRIBUTORS:
        return
    cited = [f"line {number}: {match[0]}" for number, line in prose(page) for match in _ID.finditer(line)]
    assert not cited


def test_blocks_and_commands_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        textwrap.dedent(
            """\
            Words.

                FIRST=1 policy-engine run > out   # a comment
                one \\
                  two | three

            <!-- yaml: settings -->
            ```yaml
            a: 1
            ```

            - item

              ```sh
              cat > file <<'END'
              policy-engine not-a-command
              END
              ./bazelw test //...
              ```
            """
        )
    )
    indented, settings, shell = blocks(page)
    assert [one.words for one in commands(indented)] == [("policy-engine", "run"), ("one", "two"), ("three",)]
    assert (settings.language, settings.kind, settings.text) == ("yaml", "settings", "a: 1\n")
    assert [one.words for one in commands(shell)] == [("cat",), ("./bazelw", "test", "//...")]
    assert [number for number, line in prose(page) if line] == [1, 7, 12]


_SIZE = re.compile(r"\d (?:kB|MB|GB)\b")
_DIGEST_FILE = "bazel-bin/image.oci.json.sha256"


@pytest.mark.parametrize("name", ["docs/image.md", "builder/README.md", "README.md"])
def test_pages_of_images_have_no_figures_that_no_build_makes(name: str) -> None:
    """Sizes in decimal units are measured; what images weigh is printed by the build. Limits are in MiB."""
    assert [line for _, line in prose(WORKSPACE / name) if _SIZE.search(line)] == []


def test_pages_say_where_the_digest_of_an_image_is() -> None:
    for name in ("docs/image.md", "builder/README.md", "README.md"):
        assert _DIGEST_FILE in (WORKSPACE / name).read_text(encoding="utf-8"), name
    rules = (WORKSPACE / "tools/offline/modules/rules_oci/oci/defs.bzl").read_text(encoding="utf-8")
    assert 'name + ".json.sha256"' in rules, "`oci_image` writes the digest to another file now"
    assert 'image_targets(name, name + ".oci"' in (WORKSPACE / "builder/defs.bzl").read_text(encoding="utf-8")
