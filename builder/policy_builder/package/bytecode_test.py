"""The Python of images as a compiler: what it is refused for, and that it depends on nothing but the source."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from policy_builder.commands import cli
from policy_builder.package.bytecode import BytecodeError, Interpreter, machine_architecture
from policy_builder.testworld import PYTHON, World, options


def interpreter(directory: Path, script: str = PYTHON) -> Interpreter:
    program = directory / "usr/bin/python3.13"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(script)
    program.chmod(0o755)
    return Interpreter(directory)


def test_a_module_is_compiled_alike_alone_and_among_others(tmp_path: Path) -> None:
    python = interpreter(tmp_path)
    source = b"NAMES = frozenset({'a', 'b', 'c'})\ndef f(x):\n    return x in {'one text', 'another', 'third'}\n"
    together = python.compile({"lib/a.py": b"X = 'one text'\n", "lib/b.py": source, "lib/broken.py": b"x = (\n"})
    assert sorted(together) == ["lib/__pycache__/a.cpython-313.pyc", "lib/__pycache__/b.cpython-313.pyc"]
    assert python.compile({"lib/b.py": source}) == {
        "lib/__pycache__/b.cpython-313.pyc": together["lib/__pycache__/b.cpython-313.pyc"]
    }
    assert python.compile({"lib/b.py": source + b"#\n"}) != python.compile({"lib/b.py": source})


@pytest.mark.parametrize(
    ("script", "message"),
    [
        pytest.param("#!/bin/sh\necho no room >&2; exit 1\n", "cannot compile: no room", id="fails"),
        pytest.param("#!/nowhere/python\n", "does not start: No such file", id="another machine's"),
        pytest.param(
            f'#!/bin/sh\nunset PYTHONHOME; while [ "$1" != -c ]; do shift; done\n'
            f"exec {sys.executable} -c \"import sys; sys.implementation.cache_tag = 'cpython-399'\n$2\"\n",
            "this is cpython-399, not cpython-313",
            id="another Python",
        ),
    ],
)
def test_an_interpreter_that_cannot_compile_is_refused(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(BytecodeError, match=message):
        interpreter(tmp_path, script).compile({"a.py": b""})


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "x86_64"), ("Linux", "riscv64")])
def test_a_machine_that_cannot_run_the_interpreter_is_refused(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    system: str,
    machine: str,
) -> None:
    world.policy("one")
    arguments = ["build", *options(world), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert cli.main(arguments) == cli.ENVIRONMENT
    assert "images are built on Linux, x86_64 or aarch64, since their own Python compiles" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_machine_that_images_are_made_for_can_make_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    for machine, architecture in {"x86_64": "amd64", "aarch64": "arm64"}.items():
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert machine_architecture() == architecture
