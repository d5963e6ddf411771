"""Compiled code without its symbols loads and works; what is none, or is odd, stays as it is."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy_builder.stripping import stripped

MODULES = ("google._upb._message", "yaml._yaml", "rpds.rpds", "multidict._multidict", "_brotli")


def compiled(module: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".so"):
        pytest.skip(f"{module} is not compiled here")
    return Path(spec.origin)


class Small(bytes):
    """A compiled file, which a failure does not print."""

    def __repr__(self) -> str:
        return "a compiled file"


@pytest.fixture(scope="module")
def small() -> Small:
    return Small(compiled("multidict._multidict").read_bytes())


@pytest.mark.parametrize("module", MODULES)
def test_it_loads_as_before(tmp_path: Path, module: str) -> None:
    path = compiled(module)
    before = path.read_bytes()
    after = stripped(before)
    assert stripped(after) == after
    assert len(after) <= len(before)
    target = tmp_path / path.name
    target.write_bytes(after)
    program = (
        "import importlib.machinery, importlib.util, sys\n"
        "loader = importlib.machinery.ExtensionFileLoader(sys.argv[1], sys.argv[2])\n"
        "spec = importlib.util.spec_from_file_location(sys.argv[1], sys.argv[2], loader=loader)\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(sorted(vars(module)))\n"
    )
    shown = [
        subprocess.run(
            [sys.executable, "-c", program, module, str(one)], capture_output=True, text=True, check=False, timeout=60
        )
        for one in (path, target)
    ]
    assert shown[0].stdout == shown[1].stdout != "", shown[1].stderr


@pytest.mark.parametrize("module", MODULES)
def test_it_is_what_strip_makes_of_it(tmp_path: Path, module: str) -> None:
    if shutil.which("strip") is None or shutil.which("readelf") is None:
        pytest.skip("needs binutils")
    ours, theirs = tmp_path / "ours.so", tmp_path / "theirs.so"
    ours.write_bytes(stripped(compiled(module).read_bytes()))
    subprocess.run(["strip", "-o", theirs, compiled(module)], check=True)
    tables = [
        subprocess.run(
            ["readelf", "--wide", "--segments", "--dyn-syms", "--dynamic", one], capture_output=True, check=True
        )
        for one in (ours, theirs)
    ]
    assert b"Warning" not in tables[0].stderr
    loaded = [[line for line in one.stdout.splitlines() if b"LOAD" in line or b"NEEDED" in line] for one in tables]
    assert loaded[0] == loaded[1] != []
    assert abs(ours.stat().st_size - theirs.stat().st_size) < 4096


@pytest.mark.parametrize(
    "content", [b"", b"\x7fELF", b"\x7fELF\x01\x01" + b"\0" * 100, b"text", b"\x7fELF\x02\x01" + b"\xff" * 200]
)
def test_what_is_no_compiled_code_stays_as_it_is(content: bytes) -> None:
    assert stripped(content) == content


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_wrong_with_it_nothing_is_raised(small: Small, data: st.DataObject) -> None:
    content = bytearray(small)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.one_of(st.integers(0, 63), st.integers(0, len(content) - 1)))] = data.draw(
            st.integers(0, 255)
        )
    sections = struct.unpack_from("<Q", small, 40)[0]
    if data.draw(st.booleans()):
        content[sections + data.draw(st.integers(0, 2000)) % max(1, len(content) - sections)] ^= 0xFF
    stripped(Small(content[: data.draw(st.integers(0, len(content)))]))
