"""What a path may turn out to be when a configuration file is opened: nobody waits for it, and memory is bounded."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from policy_engine.documents.plain_file import read_plain_file
from policy_engine.documents.secret_references import SecretError, SecretSource
from policy_engine.documents.yaml_document import MAX_BYTES
from policy_engine.envoy.demands import Demands
from policy_engine.envoy.lint.lint import lint_file
from policy_engine.settings.loading import SettingsError, load_settings
from policy_engine.settings.model import Settings
from policy_engine.settings.route_key import route_key_of
from policy_engine.sources.chain_file import read_chain_files
from policy_engine.sources.xds.saved import SavedError, load
from policy_engine.worker.policies.loader import load_registry_file
from policy_engine.worker.policies.manifest import read_manifest


def settings(path: Path) -> str:
    with pytest.raises(SettingsError) as error:
        load_settings(path, {})
    return str(error.value)


def saved(path: Path) -> str:
    with pytest.raises(SavedError) as error:
        load(path, "type")
    return str(error.value)


def secret(path: Path) -> str:
    with pytest.raises(SecretError) as error:
        SecretSource({}).lookup("file", str(path))
    return str(error.value)


def checksum(path: Path) -> str:
    file = path.with_name("chains.yaml")
    file.write_text("version: v1")
    path.rename(path.with_name("chains.yaml.sha256"))
    return str(read_chain_files((file,)).diagnostics[0])


NOTHING = Demands({}, 0, route_key_of(Settings().route_key), pass_unmapped=False, addresses=(), tls=False)
READERS: dict[str, Callable[[Path], str]] = {
    "chain file": lambda path: str(read_chain_files((path,)).diagnostics[0]),
    "checksum": checksum,
    "settings": settings,
    "saved chains": saved,
    "manifest": lambda path: str(read_manifest(path)[1][0]),
    "registry": lambda path: str(load_registry_file(path)[1][0]),
    "lint": lambda path: str(lint_file(path, NOTHING)[0]),
    "secret": secret,
}


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        directory = os.open(path.parent, os.O_RDONLY)  # a socket's path may be too long for its address
        one.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)


def link_to_pipe(path: Path) -> None:
    os.mkfifo(f"{path}.pipe")
    path.symlink_to(f"{path}.pipe")


ODD: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "link to a pipe": link_to_pipe,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "socket": bind,
    "no permission, as root never sees": lambda path: path.symlink_to("/proc/self/mem"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, reader: str, odd: str) -> None:
    path = tmp_path / "given.yaml"
    ODD[odd](path)
    assert "cannot be read" in READERS[reader](path)


@pytest.mark.parametrize("reader", ["chain file", "settings", "manifest", "registry", "lint"])
def test_what_is_too_large_is_not_read_to_its_end(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "given.yaml"
    path.touch()
    os.truncate(path, 1 << 40)
    if reader == "chain file":
        content = read_chain_files((path,)).contents[path]
        assert len(content) == MAX_BYTES + 1
    else:
        assert "larger than 16 MiB" in READERS[reader](path)


def test_a_path_that_no_file_can_have() -> None:
    with pytest.raises(OSError, match="NUL"):
        read_plain_file(Path("a\0b"), 10)


def test_content_up_to_one_byte_more_than_allowed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert read_plain_file(path, 10) == b"0123456789"
    assert read_plain_file(path, 5) == b"012345"
