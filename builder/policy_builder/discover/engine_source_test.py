"""An engine that is not all there makes no image, whoever builds it and wherever it comes from."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import pytest

from policy_builder.commands import cli
from policy_builder.discover import engine_source
from policy_builder.discover.engine_source import EngineError, read_engine
from policy_builder.testworld import World, options

ENGINE = Path(__file__).parents[3] / "engine"


def test_the_engine_of_this_checkout_is_whole() -> None:
    engine = read_engine(ENGINE)
    assert len(engine.files) > 100
    assert engine.licence.is_file()


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        ("LICENSE", "LICENSE is missing: an image has the licence of the engine"),
        ("launch.py", "launch.py is missing"),
        ("policy_engine", "__init__.py: No such file"),
        ("policy_engine/__main__.py", "no policy_engine.__main__"),
        ("policy_engine/kernel", "no policy_engine.kernel"),
        ("policy_engine/documents/fields.py", "no policy_engine.documents.fields"),
        ("policy_engine/worker/chains/executor.py", "no policy_engine.worker.chains.executor"),
    ],
)
def test_an_engine_without_a_part_is_refused(gone: str, expected: str, tmp_path: Path) -> None:
    for part in ("policy_engine", "launch.py", "pyproject.toml", "LICENSE"):
        source = ENGINE / part
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, tmp_path / part)
    read_engine(tmp_path)
    (shutil.rmtree if (tmp_path / gone).is_dir() else Path.unlink)(tmp_path / gone)
    with pytest.raises(EngineError, match=expected):
        read_engine(tmp_path)


@pytest.mark.parametrize("gone", ["LICENSE", "policy_engine/__main__.py"])
def test_the_command_makes_no_image_then(world: World, gone: str, capsys: pytest.CaptureFixture[str]) -> None:
    world.policy("one")
    (world.root / "engine" / gone).unlink()
    assert cli.main(["build", *options(world), "--output", str(world.root / "out")]) == cli.ENVIRONMENT
    assert "missing" in (said := capsys.readouterr().err) or "not all there" in said
    assert not (world.root / "out").exists()


def test_an_installed_engine_without_its_licence_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ENGINE / "policy_engine", tmp_path / "policy_engine")
    information = tmp_path / "policy_engine-0.1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.4\nName: policy-engine\nVersion: 0.1.0\n")
    monkeypatch.setattr(engine_source, "BUNDLED", ENGINE)
    found = importlib.metadata.Distribution.at(information)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: found)
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: [])
    with pytest.raises(EngineError, match="LICENSE is missing"):
        read_engine(None)
