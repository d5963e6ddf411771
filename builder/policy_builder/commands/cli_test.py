"""The commands as people run them: what they print, and their exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from policy_builder.commands import cli, schema_tool, validator_tool
from policy_builder.discover.engine_source import EngineError, engine_version, read_engine
from policy_builder.testworld import CODE, MANIFEST, World, options
from policy_engine.scaffold import ScaffoldError, scaffold


def test_build_prints_sizes_and_digest(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world.policy("one")
    assert cli.main(["build", *options(world), "--output", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    digest = (tmp_path / "out/digest").read_text().strip()
    assert digest in captured.out
    assert "one.v1.0.0" in captured.out
    assert captured.err == "0 errors\n"


def test_build_as_json(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world.policy("one")
    assert cli.main(["build", *options(world), "--output", str(tmp_path / "out"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["errors"] == 0
    assert document["image"]["digest"] == (tmp_path / "out/digest").read_text().strip()
    assert document["image"]["layers"][-1]["name"] == "registry"


def test_a_refused_choice_is_status_1_and_writes_nothing(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.policy("one", code="x = (\n")
    assert cli.main(["build", *options(world), "--output", str(tmp_path / "out"), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["subjects"][0]["subject"] == "one v1.0.0"
    assert "image" not in document
    assert not (tmp_path / "out").exists()
    assert cli.main(["validate", *options(world)]) == 1
    assert "one v1.0.0\n  " in capsys.readouterr().err


@pytest.mark.parametrize("options_of", [[], ["--json"]])
def test_reports_can_be_printed_whatever_names_they_hold(world: World, options_of: list[str]) -> None:
    directory = world.policy("one", code=CODE.replace("on_request_headers", "on_request_header"))
    moved = directory.rename(os.fsdecode(os.fsencode(directory.parent) + b"/v1_0_0\xff"))
    for module, paths in (("validator_tool", [str(moved)]), ("schema_tool", [str(moved)])):
        command = [sys.executable, "-m", f"policy_builder.commands.{module}", *options_of, *paths]
        path = os.pathsep.join(one for one in sys.path if one)
        done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PYTHONPATH": path})
        assert b"Traceback" not in done.stderr, done.stderr
        assert b"v1_0_0" in done.stdout
        done.stdout.decode()


def test_wrong_use_is_status_2(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.policy("one")
    for arguments in ([], ["build"], ["nonsense"], ["validate", *options(world), "--platform", "linux/386"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 2
    capsys.readouterr()
    assert cli.main(["validate", *options(world), "--engine", "/nowhere"]) == 2
    assert "--engine /nowhere does not exist" in capsys.readouterr().err


def test_what_is_nobodys_fault_is_status_3_with_the_findings_so_far(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.policy("one", code="x = (\n")
    world.engine_needs("engine-core", "more")
    with world.lock.open("a") as lock:
        lock.write(f"more==1.0 --hash=sha256:{'0' * 64}\n")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert cli.main(["validate", *options(world)]) == 3
    assert "pip could not download more==1.0" in capsys.readouterr().err
    (world.root / "engine/launch.py").unlink()
    assert cli.main(["validate", *options(world)]) == 3
    assert cli.main(["push", str(tmp_path / "none"), "--repository", "127.0.0.1:9/x"]) == 3


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("policy_builder", ["validate", "--manifest", "policy-manifest.yaml"]),
        ("policy_builder.commands.validator_tool", ["policies/one/v1_0_0"]),
        ("policy_builder.commands.schema_tool", ["policies/one/v1_0_0"]),
    ],
)
def test_paths_are_meant_from_where_bazel_run_was_typed(world: World, module: str, arguments: list[str]) -> None:
    world.policy("one")
    if arguments[0] == "validate":
        arguments = [*arguments, *options(world)[2:]]
    environment = {
        **os.environ,
        "BUILD_WORKING_DIRECTORY": str(world.root),
        "PYTHONPATH": os.pathsep.join(str(Path(one).absolute()) for one in sys.path),
    }
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1:] or done.stdout.splitlines()[-1:]) == (0, ["0 errors"])


def test_validator_reads_policies_and_runs_none(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    good = world.policy("one", code="import absent_everywhere\n" + CODE)
    assert validator_tool.main([str(good)]) == 0
    assert capsys.readouterr().out == "0 errors\n"
    (good / "policy.py").write_text(CODE.replace("self, request: Request", "self"))
    assert validator_tool.main([str(good / "policy.yaml"), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert "takes 1 arguments, but is called with 2" in document["subjects"][0]["findings"][0]["reason"]


def test_validator_says_that_nothing_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        validator_tool.main(["nope/at/all"])
    assert ended.value.code == 2
    assert "nope/at/all: no such file or directory" in capsys.readouterr().err


def test_validator_checks_a_whole_tree_and_all_versions_of_a_policy(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    good = world.policy("one")
    world.policy("two", code="def wrong(:")
    tree = good.parent.parent
    assert validator_tool.main([str(good.parent)]) == 0
    capsys.readouterr()
    assert validator_tool.main([str(tree)]) == 1
    assert "two v1.0.0" in capsys.readouterr().out
    (tree / "three/v1_0_0").mkdir(parents=True)
    assert validator_tool.main([str(tree / "three")]) == 1
    assert "has no policy.yaml" in capsys.readouterr().out


def test_validator_finds_a_policy_that_is_there_twice(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    one = world.policy("one")
    two = world.policy("two", policy__yaml=MANIFEST.format(name="one", version="v1.0.0"))
    assert validator_tool.main([str(one), str(two)]) == 1
    assert "one v1.0.0 is also in" in capsys.readouterr().out


def test_validator_checks_chains_against_the_policies_there_are(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.policy("one")
    chains = tmp_path / "chains.yaml"
    chains.write_text(
        "version: v1\nroutes:\n  - route_key: a\n    policies:\n      - name: one\n        version: v1.0.0\n"
    )
    with pytest.raises(SystemExit) as ended:
        validator_tool.main([str(chains)])
    assert ended.value.code == 2
    assert "--policies must say which policies there are" in capsys.readouterr().err
    arguments = ["--policies", str(world.root / "policies"), str(chains)]
    assert validator_tool.main(arguments) == 0
    chains.write_text(chains.read_text().replace("name: one", "name: ona"))
    assert validator_tool.main(arguments) == 1
    assert "did you mean 'one'" in capsys.readouterr().out
    assert validator_tool.main(["--policies", str(tmp_path / "none"), str(chains)]) == 2


def test_schema_checker_explains_what_is_there_and_what_is_missing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = MANIFEST.format(name="one", version="v1.0.0").replace("phases:\n", "phases:\n  - response_body\n")
    code = CODE + "\n    def on_request_trailers(self, request, trailers): ...\n\n    def close(self): ...\n"
    policy = world.policy("one", policy__yaml=manifest, code=code)
    assert schema_tool.main([str(policy)]) == 1
    out = capsys.readouterr().out
    assert "one v1.0.0  policy:Example\n" in out
    assert f"  request_headers   on_request_headers ({policy}/policy.py:6)\n" in out
    assert "request_trailers  on_request_trailers" in out
    assert "not declared in policy.yaml, so it never runs" in out
    assert (
        "response_body     declared, but missing in the class; write def on_response_body(self, request, response): or"
        in out
    )
    assert "also: close" in out
    assert schema_tool.main([str(policy), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    phases = {one["phase"]: one for one in document["policies"][0]["phases"]}
    assert phases["response_body"]["hooks"] == []
    assert phases["response_body"]["to_write"][0] == "def on_response_body(self, request, response):"


def test_schema_checker_on_a_broken_manifest_and_on_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    policy = world.policy("one", policy__yaml="name: one\n")
    assert schema_tool.main([str(policy), str(world.root / "none")]) == 1
    out = capsys.readouterr().out
    assert "lacks the required key 'entrypoint'" in out
    assert "is no directory" in out


@pytest.mark.parametrize(("template", "tests"), [("header", 2), ("exchange", 4)])
def test_a_new_policy_builds_validates_and_passes_its_own_tests(
    world: World, tmp_path: Path, template: str, tests: int
) -> None:
    written = scaffold("add-tenant", world.root / "policies", template=template)
    assert {path.name for path in written} == {
        "policy.yaml", "policy.py", "policy_test.py", "README.md", "requirements.txt", "BUILD.bazel",
    }  # fmt: skip
    directory = world.root / "policies/add-tenant/v1_0_0"
    assert validator_tool.main([str(directory)]) == 0
    assert schema_tool.main([str(directory)]) == 0
    world.choose("name: add-tenant, version: v1.0.0")
    plan, report = world.validate()
    assert plan is not None
    assert report.summary() == "0 errors"
    world.build(tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(directory), str(directory)],
        env={"PYTHONPATH": ":".join(str(Path(one).absolute()) for one in sys.path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tests} passed" in done.stdout


def test_a_second_version_gets_its_own_directory(tmp_path: Path) -> None:
    scaffold("add-tenant", tmp_path)
    with pytest.raises(ScaffoldError, match="a new version gets a directory of its own"):
        scaffold("add-tenant", tmp_path)
    scaffold("add-tenant", tmp_path, "v1.1.0")
    assert "version: v1.1.0" in (tmp_path / "add-tenant/v1_1_0/policy.yaml").read_text()


def test_a_further_version_is_a_copy_of_the_newest_before_it(tmp_path: Path) -> None:
    scaffold("add-tenant", tmp_path, "v1.2.0")
    first = tmp_path / "add-tenant/v1_2_0"
    (first / "policy.py").write_text('"""Changed since v1.2.0."""\n')
    (first / "rules").mkdir()
    (first / "rules/table.txt").write_text("version: v1.2.0")
    (first / "__pycache__").mkdir()
    (first / "__pycache__/policy.pyc").write_text("")
    (first / "README.md").write_text((first / "README.md").read_text() + "\nSince v1.2.0 it is faster than v1.2.01.\n")
    written = scaffold("add-tenant", tmp_path, "v1.10.0")
    second = tmp_path / "add-tenant/v1_10_0"
    assert set(written) == {one for one in second.rglob("*") if one.is_file()}
    assert not (second / "__pycache__").exists()
    assert "version: v1.10.0" in (second / "policy.yaml").read_text()
    assert 'version = "v1.10.0"' in (second / "BUILD.bazel").read_text()
    readme = (second / "README.md").read_text()
    assert readme.startswith("# add-tenant v1.10.0\n")
    assert "version: v1.10.0" in readme
    assert "Since v1.2.0 it is faster than v1.2.01." in readme
    assert (second / "policy.py").read_text() == (first / "policy.py").read_text()
    assert (second / "rules/table.txt").read_text() == "version: v1.2.0"
    scaffold("add-tenant", tmp_path, "v2.0.0")
    assert (tmp_path / "add-tenant/v2_0_0/policy.py").read_text() == (first / "policy.py").read_text()
    with pytest.raises(ScaffoldError, match=r"oldest version of add-tenant there is v1\.2\.0.*--version v2\.1\.0"):
        scaffold("add-tenant", tmp_path, "v1.0.0")


@pytest.mark.parametrize("name", ["AddTenant", "add_tenant", "", "-a", "a--b", "../a", "a/b", "a" * 64, "1a"])
def test_names_that_no_policy_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(ScaffoldError, match="is not in kebab-case"):
        scaffold(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", ["1.0.0", "v1", "v01.0.0", "../v1.0.0", ""])
def test_versions_that_no_policy_can_have(tmp_path: Path, version: str) -> None:
    with pytest.raises(ScaffoldError, match="is not a version"):
        scaffold("a", tmp_path, version)


def test_a_new_policy_loads_the_rule_from_where_it_lies(tmp_path: Path) -> None:
    for module, label in (("policy_engine", '"//builder:defs.bzl"'), ("acme", '"@policy_engine//builder:defs.bzl"')):
        (tmp_path / module).mkdir()
        (tmp_path / module / "MODULE.bazel").write_text(
            f'module(\n    name = "{module}",\n)\nbazel_dep(name = "policy_engine")\n'
        )
        scaffold("a", tmp_path / module / "policies")
        assert label in (tmp_path / module / "policies/a/v1_0_0/BUILD.bazel").read_text()


def test_a_directory_that_is_no_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="pyproject"):
        read_engine(tmp_path)
    (tmp_path / "__init__.py").write_text("")
    with pytest.raises(EngineError, match="no line"):
        engine_version(tmp_path / "__init__.py")
