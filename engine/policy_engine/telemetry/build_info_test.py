"""What an engine says it consists of: in an image more than elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policy_engine import __version__, cli
from policy_engine.telemetry.build_info import build_info
from policy_engine.worker.policies.registry import Registry

DEPENDENCY = {"name": "PyJWT", "version": "2.10.1", "licence": "MIT", "required_by": ["jwt-validation v1.0.0"]}


def image(directory: Path, document: str) -> Path:
    (directory / "registry.json").write_text("[]")
    (directory / "build-info.json").write_text(document)
    return directory / "registry.json"


def test_dependencies_with_versions_and_licences_are_those_of_the_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    debian = {"suite": "trixie", "packages": {"libc6": "2.41-12"}}
    document = {"engine": {"version": "another"}, "dependencies": [DEPENDENCY], "libraries": [], "debian": debian}
    registry = image(tmp_path, json.dumps(document))
    for policies in (registry, tmp_path):
        info = build_info(Registry(()), policies)
        assert info["engine"] == __version__  # of the code that runs, not of a file beside it
        assert (info["dependencies"], info["debian"]) == ([DEPENDENCY], debian)
    assert cli.main(["--build-info", "--policies-registry", str(registry)]) == 0
    assert json.loads(capsys.readouterr().out)["dependencies"] == [DEPENDENCY]


@pytest.mark.parametrize("document", ["", "[]", "{", '{"dependencies": {}, "debian": []}'])
def test_what_is_no_description_of_an_image_adds_nothing(tmp_path: Path, document: str) -> None:
    info = build_info(Registry(()), image(tmp_path, document))
    assert set(info) == {"engine", "python", "policies", "verification"}
    assert set(build_info(Registry(()))) == set(info)
