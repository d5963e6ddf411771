"""Kinds of files: what is copied from a directory, what is compiled code, and what configuration may be."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from policy_builder.discover.choice import read_choice
from policy_builder.discover.file_kinds import compiled_code, irregularity, unfit_configuration
from policy_builder.testworld import World, elf


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


MAKE: dict[str, Callable[[Path], object]] = {
    "is a link": lambda path: path.symlink_to("/etc/hostname"),
    "it is a link": lambda path: path.symlink_to("nowhere"),
    "link, and what": lambda path: path.symlink_to(path.parent),
    "a pipe, a socket": os.mkfifo,
    "a socket or": listen,
}


@pytest.mark.parametrize("expected", MAKE)
@pytest.mark.parametrize("name", ["x.py", "data", "x_test.py", "below/x"])
def test_irregular_files_in_a_policy(world: World, monkeypatch: pytest.MonkeyPatch, expected: str, name: str) -> None:
    directory = world.policy("one")
    (directory / name).parent.mkdir(exist_ok=True)
    monkeypatch.chdir((directory / name).parent)  # the path of a socket is short
    MAKE[expected](Path(Path(name).name))
    report = world.report()
    assert f"policies/one/v1_0_0/{name}: is not a regular file: it is " in report
    assert expected in report


def test_a_device() -> None:
    assert "a device" in irregularity(Path("/dev/null"))
    assert "a device" in irregularity(Path("/dev/zero"), follow_links=True)


@pytest.mark.parametrize("name", [b"a\nb.py", b"\xff.py", b"a\x1b[2J", "\u202eyp.x".encode()])
def test_names_that_cannot_be_printed(world: World, name: bytes) -> None:
    directory = world.policy("one")
    (directory / os.fsdecode(name)).write_bytes(b"")
    report = world.report()
    assert "has a name that cannot be printed" in report
    report.encode()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.so", b"", "compiled code by its name"), ("x.cpython-313-x86_64-linux-gnu.so", b"", "by its name"), ("x.so.1.2", b"", "by its name"),
        ("x.PYD", b"", "by its name"), ("x.dylib", b"", "by its name"), ("x.dll", b"text", "by its name"), ("x.a", b"", "by its name"),
        ("data.bin", elf(), "compiled code (ELF)"), ("README.md", elf(183), "compiled code (ELF)"), ("x", b"MZ\x90\0\x03", "(Windows)"),
        ("x", b"\xcf\xfa\xed\xfe....", "(Mach-O)"), ("x", b"\0asm\1\0\0\0", "(WebAssembly)"), ("x", b"!<arch>\nabc", "archive of compiled"),
        ("MZ.md", b"MZ is a word", ""), ("x.py", b"", ""), ("so.py", b"", ""), ("x.so.py", b"x", ""), ("x.a.b.py", b"x", ""), ("a.json", b"{}", ""), ("x.png", b"\x89PNG", ""),
    ],
)  # fmt: skip
def test_compiled_code(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    found = compiled_code(name, tmp_path / name)
    assert found == "" if not expected else expected in found


KEYS = [
    *(f"-----BEGIN {kind}PRIVATE KEY-----\n" for kind in ("", "RSA ", "EC ", "ENCRYPTED ", "OPENSSH ", "DSA ")),
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\n", "PuTTY-User-Key-File-3: ssh-ed25519\n", "AGE-SECRET-KEY-1QQ\n",
    "key: |\n  -----BEGIN PRIVATE KEY-----\n", '{"keys": [{"kty": "oct", "k": "c2VjcmV0LXNlY3JldC0x"}]}',
    '{"kty":"EC","d" : "c2VjcmV0LXNlY3JldC0x"}',
]  # fmt: skip


@pytest.mark.parametrize("text", KEYS)
def test_keys_are_no_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "engine.yaml").write_text(f"# a comment\n{text}")
    assert unfit_configuration(tmp_path / "engine.yaml").startswith("holds a private key, which whoever has the image")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("chains.yaml", b"version: v1\n", ""),
        ("chains.yaml", b"\xef\xbb\xbfversion: v1\n", ""),
        ("ca.pem", b"-----BEGIN CERTIFICATE-----\nMII\n", ""),
        ("keys.json", b'{"keys": [{"kty": "RSA", "n": "c2VjcmV0LXNlY3JldC0x", "e": "AQAB"}]}', ""),
        ("pub.pem", b"-----BEGIN PUBLIC KEY-----\n", ""),
        ("chains.json", b'{"k": "a-header-with-a-long-name"}', ""),
        ("x.yaml", b"\xff\xfe", "is not text"),
        ("x.yaml", b"a\0b", "is not text"),
        ("x.yaml", elf(), "is not text"),
        ("start.sh", b"#!/bin/sh\n", "is a program"),
        ("x.yaml", b"#" * ((1 << 20) + 1), "is larger than 1 MiB"),
        ("config.json", b'{"auths": {"x": {"auth": "dXNlcjpwYXNz"}}}', "holds the login for a registry"),
        *((name, b"x", "has the name of a file of secrets") for name in ("id_rsa", "tls.key", ".netrc", "a.p12", ".env", ".env.local", "x.env", ".htpasswd", "store.JKS")),
    ],
)  # fmt: skip
def test_configuration(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    found = unfit_configuration(tmp_path / name)
    assert found == "" if not expected else found.startswith(expected)


def test_configuration_in_a_manifest_is_refused_with_what_it_takes(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/engine.yaml").write_text(KEYS[0])
    (tmp_path / "etc/linked.yaml").symlink_to("/etc/hostname")
    (tmp_path / "etc/good.yaml").write_text("version: v1\n")
    (tmp_path / "etc/inside.yaml").symlink_to("good.yaml")
    os.mkfifo(tmp_path / "etc/pipe.yaml")
    names = ("engine", "linked", "good", "inside", "pipe")
    text = "".join(f"  - etc/{name}.yaml\n" for name in names)
    (tmp_path / "policy-manifest.yaml").write_text(f"version: v1\nconfiguration:\n{text}policies: []\n")
    choice, diagnostics = read_choice(tmp_path / "policy-manifest.yaml")
    assert choice is not None
    assert [path.name for path in choice.configuration] == ["good.yaml", "inside.yaml"]
    found = [str(one) for one in diagnostics]
    assert "/configuration/0: holds a private key" in found[0]
    assert (
        "allowed: UTF-8 text of at most 1 MiB: YAML, JSON, certificates; every user of the image can read it"
        in found[0]
    )
    assert "/configuration/1: is a link that leads out of the manifest's directory" in found[1]
    assert "/configuration/4: is no file beside the manifest" in found[2]
