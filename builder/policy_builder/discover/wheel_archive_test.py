"""Wheels of strangers: what is unpacked, and that nothing is written of one that is refused."""

from __future__ import annotations

import contextlib
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from policy_builder.discover import wheel_archive
from policy_builder.discover.wheel_archive import WheelError, unpack_wheel


def archive(
    directory: Path, *members: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED
) -> Path:
    path = directory / "lib-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content, compress_type=compression)
    return path


def irregular(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o644) << 16
    return info


def refused(directory: Path, wheel: Path) -> str:
    with pytest.raises(WheelError) as caught:
        unpack_wheel(wheel, directory / "target" / "below")
    assert not [path for path in (directory / "target").rglob("*") if path.is_file()]
    return str(caught.value)


def test_what_an_installer_would_put_into_site_packages(tmp_path: Path) -> None:
    wheel = archive(
        tmp_path, ("lib/__init__.py", b"a"), ("lib/", b""), ("lib-1.0.data/purelib/lib/b.py", b"b"), ("lib-1.0.data/platlib/c.so", b"c"),
        ("lib-1.0.data/scripts/run", b"d"), ("lib-1.0.data/data/etc/x", b"e"), ("lib-1.0.data/purelib/", b""),
    )  # fmt: skip
    unpack_wheel(wheel, tmp_path / "out")
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert found == {"lib/__init__.py": b"a", "lib/b.py": b"b", "c.so": b"c"}


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../x", "lib/../../x", "lib/..", "./x", "lib//x", "lib\\x", "..\\x", "C:/x", "C:x", "lib/x\ny", "lib/\x1b[2J",
        "lib/\u202ex", "lib-1.0.data/purelib/../../../x", "lib-1.0.data/purelib//x", "lib/\udcff".encode(errors="replace").decode() + "\x07",
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["", "/"])
def test_names_that_are_none(tmp_path: Path, name: str, end: str) -> None:
    assert "which is no name of a file below its directory" in refused(tmp_path, archive(tmp_path, (name + end, b"")))


def test_a_name_with_a_nul(tmp_path: Path) -> None:
    wheel = archive(tmp_path, ("lib/aXb.py", b"x"))
    wheel.write_bytes(wheel.read_bytes().replace(b"aXb", b"a\0b"))
    assert "no name of a file" in refused(tmp_path, wheel)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    assert "too long" in refused(tmp_path, archive(tmp_path, ("x" * 256, b"")))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (stat.S_IFLNK, "which is a link"), (stat.S_IFIFO, "no regular file"), (stat.S_IFSOCK, "no regular file"),
        (stat.S_IFCHR, "no regular file"), (stat.S_IFBLK, "no regular file"),
    ],
)  # fmt: skip
def test_members_that_are_no_files(tmp_path: Path, kind: int, expected: str) -> None:
    wheel = archive(tmp_path, ("lib/__init__.py", b""), (irregular("lib/x", kind), b"/etc/passwd"))
    assert refused(tmp_path, wheel) == f"has 'lib/x', {'which is ' if 'which' not in expected else ''}{expected}"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.py", "a.py"], "has 'a.py' twice"),
        (["lib/a.py", "lib-1.0.data/purelib/lib/a.py"], "has 'lib/a.py' twice"),
        (["lib/a.py", "lib/A.py"], "are one file on some machines"),
        (["Lib/a.py", "lib/a.py"], "are one file on some machines"),
        (["stra\u00dfe", "STRASSE"], "are one file on some machines"),
        (["\u00e9", "e\u0301"], "are one file on some machines"),
        (["lib", "lib/a.py"], "has 'lib' as a file, and 'lib/a.py' below it"),
        (["LIB", "lib/a/b.py"], "as a file, and 'lib/a/b.py' below it"),
    ],
)
def test_names_that_meet(tmp_path: Path, names: list[str], expected: str) -> None:
    assert expected in refused(tmp_path, archive(tmp_path, *((name, b"") for name in names)))


def test_a_wheel_that_would_grow_without_bound(tmp_path: Path) -> None:
    members = [(f"zeros{number}", bytes(8 << 20)) for number in range(9)]
    assert refused(tmp_path, archive(tmp_path, *members)) == "unpacks to 72 MiB, more than 100 times its own size"
    unpack_wheel(archive(tmp_path, *members[:8]), tmp_path / "out")
    unpack_wheel(archive(tmp_path, *members, compression=zipfile.ZIP_STORED), tmp_path / "stored")


def test_limits_of_size_and_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [(f"f{number}", b"12345") for number in range(10)]
    monkeypatch.setattr(wheel_archive, "MAX_FILES", 9)
    assert refused(tmp_path, archive(tmp_path, *members)) == "has 10 files, more than 9"
    monkeypatch.setattr(wheel_archive, "MAX_FILES", 10)
    monkeypatch.setattr(wheel_archive, "MAX_BYTES", 49)
    assert "unpacks to 0 MiB, more than 0 MiB" in refused(tmp_path, archive(tmp_path, *members))


def test_a_listing_that_lies_of_the_size(tmp_path: Path) -> None:
    wheel = archive(tmp_path, ("zeros", bytes(1 << 20)))
    wheel.write_bytes(wheel.read_bytes().replace((1 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(WheelError, match="is not a wheel: Bad CRC"):
        unpack_wheel(wheel, tmp_path / "out")
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) <= 10


def test_an_encrypted_member(tmp_path: Path) -> None:
    wheel = archive(tmp_path, ("a", b"x"), compression=zipfile.ZIP_STORED)
    content = bytearray(wheel.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    content[6] |= 1
    wheel.write_bytes(content)
    with pytest.raises(WheelError, match="is not a wheel"):
        unpack_wheel(wheel, tmp_path / "out")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 399), byte=st.integers(0, 255), cut=st.integers(0, 400))
@example(place=274, byte=1, cut=140)  # a listing that leads before the file's begin
def test_any_damage_gives_files_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, cut: int
) -> None:
    directory = tmp_path_factory.mktemp("any")
    wheel = archive(directory, ("lib/__init__.py", b"x = 1\n" * 20), ("lib-1.0.dist-info/METADATA", b"Name: lib\n"))
    content = bytearray(wheel.read_bytes())
    content[place % len(content)] = byte
    wheel.write_bytes(content[: len(content) if cut > len(content) // 2 else cut])
    with contextlib.suppress(WheelError):
        unpack_wheel(wheel, directory / "target/below")
    assert {path.name for path in directory.iterdir()} <= {"target", wheel.name}
    assert {path.name for path in (directory / "target").iterdir()} == {"below"}


@pytest.mark.parametrize("executables", [True, False])
def test_files_keep_the_mode_that_starts_them_where_that_is_wanted(tmp_path: Path, *, executables: bool) -> None:
    wheel = tmp_path / "lib-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as written:
        for name, mode in (("lib/run", 0o100755), ("lib/read", 0o100644)):
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            written.writestr(member, b"x")
    unpack_wheel(wheel, tmp_path / "out", executables=executables)
    modes = {name: (tmp_path / "out/lib" / name).stat().st_mode & 0o111 for name in ("run", "read")}
    assert (bool(modes["run"]), bool(modes["read"])) == (executables, False)
