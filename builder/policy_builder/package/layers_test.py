"""Layers are the same bytes whatever the modes, owners and order of their inputs."""

import io
import tarfile
from pathlib import Path

import pytest

from policy_builder.package import layers


def entries(tar: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(tar) as archive:
        return {member.name: member for member in archive}


def deb(path: Path, *members: tuple[str, bytes, int]) -> Path:
    path.parent.mkdir()
    with tarfile.open(path, "w:xz") as archive:
        for name, data, mode in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.mtime = len(data), mode, 1000, 1_700_000_000
            archive.addfile(info, io.BytesIO(data))
    return path


def test_mode_follows_content_not_the_input_file(tmp_path: Path) -> None:
    script, text = tmp_path / "script", tmp_path / "text"
    script.write_bytes(b"#!/bin/sh\n")
    text.write_bytes(b"text")
    manifest = [{"path": "/b/script", "source": str(script)}, {"path": "/a/text", "source": str(text)}]
    tars = []
    for mode in (0o600, 0o777):
        script.chmod(mode)
        text.chmod(mode)
        tars.append(tmp_path / f"{mode}.tar")
        layers.files(manifest).write(tars[-1])
    assert tars[0].read_bytes() == tars[1].read_bytes()
    found = entries(tars[0])
    assert list(found) == ["a", "a/text", "b", "b/script"]
    assert found["b/script"].mode == 0o755
    assert found["a/text"].mode == 0o644
    assert {(member.uid, member.gid, member.mtime) for member in found.values()} == {(0, 0, 0)}


def test_one_path_with_two_contents_is_refused_by_name(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    manifest = [{"path": "/x/y.py", "source": str(one)}, {"path": "/x/y.py", "source": str(two)}]
    with pytest.raises(layers.LayerError, match=rf"/x/y\.py .*{one} and from {two}"):
        layers.files(manifest)
    two.write_text("1")
    assert layers.files(manifest)


def test_programs_that_need_a_shell_are_left_out_and_the_system_is_named(tmp_path: Path) -> None:
    control = b"Package: base-files\nVersion: 13\n"
    packages = [
        deb(
            tmp_path / "base-files" / "data.tar.xz",
            ("./usr/lib/os-release", b"ID=debian\n", 0o644),
            ("./usr/share/common-licenses/GPL-3", b"text", 0o644),
            ("./etc/profile", b"x", 0o644),
        ),
        deb(
            tmp_path / "tools" / "data.tar.xz",
            ("./usr/sbin/update", b"#!/bin/sh -e\n", 0o755),
            ("./usr/bin/perl-program", b"#! /usr/bin/perl\n", 0o755),
            ("./usr/bin/python-program", b"#!/usr/bin/python3\n", 0o755),
            ("./usr/lib/python3.13/test/support.py", b"", 0o644),
            ("./usr/lib/python3.13/email/test/x.py", b"", 0o644),
            ("./usr/lib/python3.13/pydoc.py", b"", 0o644),
            ("./usr/lib/python3.13/testing.py", b"", 0o644),
            ("./usr/lib/python3.13/lib-dynload/_testcapi.cpython-313-x86_64-linux-gnu.so", b"", 0o644),
        ),
    ]
    (tmp_path / "control").mkdir()
    made = deb(tmp_path / "made" / "control.tar.xz", ("./control", control, 0o644))
    packages.append(made.rename(tmp_path / "base-files" / "control.tar.xz"))
    out = tmp_path / "base.tar"
    layers.debs(packages).write(out)
    found = entries(out)
    assert "usr/lib/os-release" in found
    assert "usr/share/common-licenses/GPL-3" in found
    assert "usr/bin/python-program" in found
    assert "usr/lib/python3.13/testing.py" in found
    gone = ("etc/profile", "update", "perl-program", "support.py", "email/test", "pydoc", "_testcapi")
    assert not [name for name in found if name.endswith(gone)]
    with tarfile.open(out) as archive:
        status = archive.extractfile("var/lib/dpkg/status.d/base-files")
        assert status is not None
        assert status.read() == control
    assert "var/lib/dpkg/status.d/base-files.md5sums" in found


def test_base_is_merged_rootless_and_without_documentation(tmp_path: Path) -> None:
    package = deb(
        tmp_path / "libfoo" / "data.tar.xz",
        ("./lib/x86_64-linux-gnu/libfoo.so", b"\x7fELF", 0o644),
        ("./usr/share/doc/libfoo/copyright", b"c", 0o644),
        ("./usr/share/doc/libfoo/changelog.gz", b"c", 0o644),
        ("./usr/share/ca-certificates/mozilla/b.crt", b"B\n", 0o644),
        ("./usr/share/ca-certificates/mozilla/a.crt", b"A\n", 0o644),
    )
    out = tmp_path / "base.tar"
    layers.debs([package]).write(out)
    found = entries(out)
    assert found["lib"].linkname == "usr/lib"
    assert found["usr/lib/x86_64-linux-gnu/libfoo.so"].uid == 0
    assert "usr/share/doc/libfoo/copyright" in found  # an image is a copy that is given to others
    assert not [name for name in found if "changelog" in name or (name.endswith(".crt") and "mozilla" in name)]
    assert found["tmp"].mode == 0o1777
    with tarfile.open(out) as archive:
        authorities = archive.extractfile("etc/ssl/certs/ca-certificates.crt")
        assert authorities is not None
        assert authorities.read() == b"A\nB\n"
    assert found["usr/lib/ssl/cert.pem"].linkname == "/etc/ssl/certs/ca-certificates.crt"
