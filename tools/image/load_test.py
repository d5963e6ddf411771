"""load.sh: loads with the container engine that answers, and fails where there is none."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

LOAD = Path(__file__).with_name("load.sh")
TOOLS = ("cat", "chmod", "mktemp", "bash")


def load(directory: Path, engines: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run load.sh where the PATH has `engines` (name and shell script) and nothing else that could load an image."""
    programs = directory / "bin"
    programs.mkdir()
    for tool in TOOLS:
        (programs / tool).symlink_to(shutil.which(tool) or "/nowhere")
    for name, script in engines.items():
        (programs / name).write_text(f"#!{programs / 'bash'}\n{script}\n")
        (programs / name).chmod(0o755)
    image = directory / "image.tar"
    image.write_text("an image")
    environment = {"PATH": str(programs), "TMPDIR": str(directory)}
    command = [str(programs / "bash"), str(LOAD), "load", "--input", str(image)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)


FAILS = "exit 1"
LOADS = 'case "$1" in info) ;; load) echo loaded; cat "$3" ;; esac'


@pytest.mark.parametrize("engines", [{}, {"docker": FAILS}, {"docker": FAILS, "podman": FAILS}, {"podman": FAILS}])
def test_without_a_container_engine_it_fails_and_says_where_the_image_is(
    tmp_path: Path, engines: dict[str, str]
) -> None:
    done = load(tmp_path, engines)
    assert done.returncode == 1
    assert "the image was built but not loaded" in done.stderr
    found = re.search(r"It is in (\S+):", done.stderr)
    assert found is not None
    assert Path(found[1]).read_text() == "an image"


@pytest.mark.parametrize("engines", [{"docker": LOADS}, {"docker": FAILS, "podman": LOADS}, {"podman": LOADS}])
def test_the_engine_that_answers_loads_it(tmp_path: Path, engines: dict[str, str]) -> None:
    done = load(tmp_path, engines)
    assert (done.returncode, done.stdout) == (0, "loaded\nan image")


def test_an_engine_that_cannot_load_it_fails(tmp_path: Path) -> None:
    done = load(tmp_path, {"docker": 'case "$1" in info) ;; *) echo "no space" >&2; exit 3 ;; esac'})
    assert (done.returncode, done.stderr) == (3, "no space\n")


def test_it_is_executable() -> None:
    assert os.access(LOAD, os.X_OK)
