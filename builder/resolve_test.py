"""The registry, labels and tag of an image, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from builder import resolve

MANIFEST = "name: set-header\nversion: v1.0.0\nentrypoint: policy:SetHeader\n"


def request(tmp_path: Path, manifest: str = MANIFEST, **changes: str) -> dict[str, Any]:
    directory = tmp_path / "policy"
    directory.mkdir(exist_ok=True)
    (directory / "policy.yaml").write_text(manifest)
    (directory / "policy.py").write_text("class SetHeader: ...\n")
    engine = tmp_path / "__init__.py"
    engine.write_text('"""Engine."""\n\n__version__ = "1.2.3"\n')
    files = [{"path": name, "source": str(directory / name)} for name in ("policy.yaml", "policy.py")]
    policy = {
        "label": "//p:set-header",
        "name": "set-header",
        "version": "v1.0.0",
        "directory": "/app/p",
        "files": files,
    }
    return {"engine": str(engine), "repository": "policy-engine", "policies": [policy | changes]}


def run(tmp_path: Path, chosen: dict[str, Any]) -> tuple[int, list[Path]]:
    source = tmp_path / "chosen.json"
    source.write_text(json.dumps(chosen))
    outputs = [tmp_path / name for name in ("registry.json", "labels.txt", "tags.txt")]
    return resolve.main(source, *outputs), outputs


def test_registry_labels_and_tag(tmp_path: Path) -> None:
    status, (registry, labels, tags) = run(tmp_path, request(tmp_path))
    assert status == 0
    (entry,) = json.loads(registry.read_text())
    assert entry["entrypoint"] == "policy:SetHeader"
    assert entry["directory"] == "/app/p"
    assert f"policy-engine.policy.set-header.v1.0.0={entry['digest']}" in labels.read_text().splitlines()
    assert "org.opencontainers.image.version=1.2.3" in labels.read_text()
    assert tags.read_text() == "policy-engine:1.2.3\n"


def test_digest_depends_on_content_and_path_only(tmp_path: Path) -> None:
    files = request(tmp_path)["policies"][0]["files"]
    before = resolve.digest(files)
    assert resolve.digest(files[::-1]) == before
    Path(files[1]["source"]).write_text("class SetHeader: pass\n")
    assert resolve.digest(files) != before


@pytest.mark.parametrize(
    ("manifest", "changes", "message"),
    [
        (MANIFEST, {"version": "v2.0.0"}, "version is 'v1.0.0', but //p:set-header says 'v2.0.0'"),
        (MANIFEST.replace("set-header", "other"), {}, "name is 'other'"),
        ("name: set-header\nversion: v1.0.0\n", {}, "entrypoint is missing"),
        ("- a\n", {}, "expected a mapping"),
        ("name: [\n", {}, "policy.yaml"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], manifest: str, changes: dict[str, str], message: str
) -> None:
    status, (registry, *_) = run(tmp_path, request(tmp_path, manifest, **changes))
    assert status == 1
    assert message in capsys.readouterr().err
    assert not registry.exists()


def test_all_mistakes_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = request(tmp_path, version="v9.0.0")
    chosen["policies"].append(chosen["policies"][0] | {"label": "//q:set-header", "version": "v8.0.0"})
    assert run(tmp_path, chosen)[0] == 1
    report = capsys.readouterr().err
    assert "//p:set-header says 'v9.0.0'" in report
    assert "//q:set-header says 'v8.0.0'" in report
