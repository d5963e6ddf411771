"""Requirements files: what is understood, and a test for each line that is refused."""

from __future__ import annotations

import codecs
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


PINNED = "# eins, zw\u00f6lf\nPyJWT==2.15.1\r\nredis==5.0\n"


@pytest.mark.parametrize(
    "content",
    [
        PINNED.encode(),
        codecs.BOM_UTF8 + PINNED.encode(),
        PINNED.encode("utf-16"),
        codecs.BOM_UTF16_LE + PINNED.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + PINNED.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + PINNED.encode("utf-32-le"),
        codecs.BOM_UTF32_BE + PINNED.encode("utf-32-be"),
        b"# -*- coding: latin-1 -*-\n" + PINNED.encode("latin-1"),
        b"\n# coding=cp1252\n" + PINNED.encode("cp1252"),
    ],
)
def test_encodings_are_those_that_pip_reads(tmp_path: Path, content: bytes) -> None:
    found = read(tmp_path, content)
    assert not found.diagnostics
    assert {name: pin.version for name, pin in found.pins.items()} == {"pyjwt": "2.15.1", "redis": "5.0"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"# z\xf6lf\nPyJWT==2.15.1\n", "is not UTF-8 text"),
        (PINNED.encode("utf-16-le"), "is not UTF-8 text"),
        (codecs.BOM_UTF8 + b"\xff", "is not UTF-8 text"),
        (codecs.BOM_UTF16_LE + b"x", "is not text in the encoding utf-16"),
        (b"# coding: nonsense\nPyJWT==2.15.1\n", "is not text in the encoding nonsense that it states"),
        (b"# coding: rot13\nPyJWT==2.15.1\n", "is not text in the encoding rot13"),
        (b"x==1; " + b"(" * 5000 + b"os_name == 'a'" + b")" * 5000, "its marker is nested too deep"),
        (b"x==1; os_name ~= 'a'", "x has a marker that cannot be judged: os_name"),
        (b"x==1; python_version ~= '3'", "x has a marker that cannot be judged: python_version"),
    ],
)
def test_what_pip_could_not_read_either(tmp_path: Path, content: bytes, expected: str) -> None:
    found = read(tmp_path, content)
    assert not found.pins
    assert expected in "\n".join(str(one) for one in found.diagnostics)


@given(
    content=st.binary(max_size=100),
    mark=st.sampled_from([b"", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"# coding: hex\n"]),
)
def test_any_bytes_give_pins_or_findings(tmp_path_factory: pytest.TempPathFactory, content: bytes, mark: bytes) -> None:
    read(tmp_path_factory.mktemp("any"), mark + content)


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
