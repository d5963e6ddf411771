"""Makes the wheel of this directory without a network: `make_wheel.py OUT-DIRECTORY`; elsewhere `pip wheel .` does."""

from __future__ import annotations

import sys
import tomllib
import zipfile
from pathlib import Path


def main(out: Path) -> Path:
    """Write the wheel to `out` and return its path."""
    source = Path(__file__).resolve().parent
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = project["name"].replace("-", "_"), project["version"]
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {version}"]
    metadata += [f"License-Expression: {project['license']}"]
    metadata += [f"Requires-Dist: {one}" for one in project["dependencies"]]
    points = [f"[{group}]" for group in project["entry-points"]]
    points += [f"{key} = {value}" for group in project["entry-points"].values() for key, value in group.items()]
    content = {
        path.relative_to(source).as_posix(): path.read_bytes()
        for path in sorted((source / name).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    content[f"{info}/METADATA"] = ("\n".join(metadata) + "\n").encode()
    content[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    content[f"{info}/entry_points.txt"] = ("\n".join(points) + "\n").encode()
    content[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*content, f"{info}/RECORD"]).encode()
    wheel = out / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, data in content.items():
            archive.writestr(zipfile.ZipInfo(file), data)
    return wheel


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
