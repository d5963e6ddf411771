"""Requirements files: what is understood, and a test for each line that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_builder.discover.platform import Platform
from policy_builder.discover.requirements_file import MAX_BYTES, Requirements, read_requirements

HASH = "sha256:" + "a" * 64


def read(directory: Path, text: str | bytes) -> Requirements:
    path = directory / "requirements.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_requirements(path, Platform().marker_environment(), "requirements.txt")


def test_pins_with_extras_hashes_comments_and_continued_lines(tmp_path: Path) -> None:
    text = f"""# what it needs
PyJWT[Crypto]==2.15.1 \\
    --hash={HASH} \\
    --hash=sha256:{"b" * 64}  # via nobody

other_name == 1.0rc1   # a comment
"""
    found = read(tmp_path, text)
    assert not found.diagnostics
    jwt = found.pins["pyjwt"]
    assert (str(jwt), jwt.line, jwt.hashes) == ("PyJWT[crypto]==2.15.1", 2, frozenset({HASH, "sha256:" + "b" * 64}))
    assert jwt.as_line() == f"PyJWT[crypto]==2.15.1 --hash={HASH} --hash=sha256:{'b' * 64}"
    assert found.pins["other-name"].place == "requirements.txt:6"


def test_a_pin_for_other_machines_is_passed_over(tmp_path: Path) -> None:
    found = read(tmp_path, 'a==1; sys_platform == "win32"\nb==1; python_version >= "3.11"\n')
    assert set(found.pins) == {"b"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("PyJWT", "PyJWT is not pinned"),
        ("PyJWT>=2", "PyJWT is not pinned"),
        ("PyJWT==2.*", "PyJWT is not pinned"),
        ("PyJWT~=2.1", "PyJWT is not pinned"),
        ("PyJWT==2,!=2.1", "PyJWT is not pinned"),
        ("PyJWT===2", "PyJWT is not pinned"),
        ("PyJWT @ https://example.test/x.whl", "PyJWT comes from a URL"),
        ("-r other.txt", "has the option -r"),
        ("-e .", "has the option -e"),
        ("--index-url https://example.test", "has the option --index-url"),
        ("../../shared", "is a path; a library of this repository is found by its import"),
        ("/opt/x", "is a path"),
        ("git+https://example.test/x", "is not a requirement"),
        ("PyJWT==2 --hash=md5:123", "has a hash that is not sha256"),
        ("PyJWT==2 --hash=sha256:123", "has a hash that is not sha256"),
        ("!!!", "is not a requirement"),
    ],
)
def test_refused(tmp_path: Path, line: str, expected: str) -> None:
    found = read(tmp_path, f"# first\n{line}\n")
    assert not found.pins
    (finding,) = found.diagnostics
    assert str(finding).startswith("requirements.txt:2:1: ")
    assert expected in str(finding)


def test_a_name_twice_is_refused_however_it_is_written(tmp_path: Path) -> None:
    (finding,) = read(tmp_path, "some.name==1\nSome_Name==2\n").diagnostics
    assert "requirements.txt:2:1: names Some_Name again; first in line 1" in str(finding)


def test_unreadable_files(tmp_path: Path) -> None:
    assert "is not UTF-8 text" in str(read(tmp_path, b"\xff").diagnostics[0])
    assert "is larger than 4 MiB" in str(read(tmp_path, b"#" * (MAX_BYTES + 1)).diagnostics[0])
    missing = read_requirements(tmp_path / "none.txt", {})
    assert "cannot be read" in str(missing.diagnostics[0])


@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_any_text_gives_pins_or_findings(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    found = read(tmp_path_factory.mktemp("any"), text)
    for pin in found.pins.values():
        assert pin.version
    for finding in found.diagnostics:
        assert finding.line is not None
        assert finding.line >= 1
