from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from policy_engine.documents.diagnostics import MOST_FINDINGS, Severity
from policy_engine.settings.model import ConfigurationSource, SecretSettings, Settings
from policy_engine.sources.validate import chain_reader, validate_paths
from policy_engine.worker.policies.loader import load_policies, load_policy_tree
from policy_engine.worker.policies.registry import Registry
from testsupport.policy_directories import write_policy

TEN_MISTAKES = """\
version: v1
routs: []
routes:
- route_key: one
  policies:
  - name: testd
    version: v1
  - name: tested
    version: v7
  - name: tested
    version: v1
    enabled: yes
    failure_mode: opened
    timeout: 5
    condition: request.metod == "GET"
    parameters:
      count: 0
      key: ${env:NOT_SET_ANYWHERE}
      header: x
      header: y
- route_key: one
  policies: []
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    root = tmp_path_factory.mktemp("policies")
    write_policy(root)
    registry, diagnostics = load_policy_tree(root)
    assert registry is not None, diagnostics
    return registry


def test_ten_mistakes_are_ten_findings_each_in_its_line(tmp_path: Path, registry: Registry) -> None:
    file = tmp_path / "chains.yaml"
    file.write_text(TEN_MISTAKES)
    found = validate_paths([file], registry)
    assert [(one.line, one.rule.value) for one in found] == [
        (2, "unknown-key"),
        (6, "unknown-policy"),
        (9, "unknown-version"),
        (12, "wrong-type"),
        (13, "wrong-value"),
        (14, "wrong-type"),
        (15, "invalid-condition"),
        (17, "invalid-parameters"),
        (18, "unresolved-secret"),
        (20, "duplicate-key"),
        (21, "duplicate-route"),
    ]


def test_a_management_server_cannot_have_files_read_that_nobody_named(tmp_path: Path, registry: Registry) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    route = {
        "route_key": "r",
        "policies": [{"name": "tested", "version": "v1", "parameters": {"key": f"${{file:{secret}}}"}}],
    }
    allowed = SecretSettings(directories=(tmp_path,))
    for configuration, secrets, reads in [
        (ConfigurationSource.FILE, SecretSettings(), True),
        (ConfigurationSource.XDS, SecretSettings(), False),
        (ConfigurationSource.XDS, allowed, True),
        (ConfigurationSource.XDS, SecretSettings(directories=(tmp_path / "other",)), False),
    ]:
        settings = replace(Settings(), configuration=configuration, secrets=secrets)
        loaded = chain_reader(registry, settings).read_route("r", route)
        assert (loaded.chains is not None) == reads
        if not reads:
            assert "is outside the directories for secrets" in loaded.diagnostics[0].reason


def test_a_good_configuration_has_no_findings(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "a.yaml").write_text("version: v1\nroutes: [{route_key: a, policies: [{name: tested, version: v1}]}]")
    (tmp_path / "b.yaml").write_text("version: v1\nroutes: [{route_key: b, policies: []}]")
    assert validate_paths([tmp_path], registry) == []
    assert validate_paths([tmp_path / "a.yaml", tmp_path / "b.yaml"], registry) == []


def test_policies_that_no_chain_names_may_lack_what_they_need(tmp_path: Path) -> None:
    write_policy(tmp_path, "good")
    write_policy(tmp_path, "good", "v1.1.0", code="import nowhere_at_all\n")
    write_policy(tmp_path, "bad", code="import nowhere_at_all\n")
    (write_policy(tmp_path, "worse") / "policy.yaml").write_text("[")
    registry = load_policies(tmp_path)
    file = tmp_path / "chains.yaml"

    def validate(name: str, version: str) -> tuple[list[str], list[str]]:
        file.write_text(f"version: v1\nroutes: [{{route_key: r, policies: [{{name: {name}, version: {version}}}]}}]\n")
        found = validate_paths([file], registry)
        errors = [str(one) for one in found if one.severity is Severity.ERROR]
        return errors, [str(one) for one in found if one.severity is Severity.WARNING]

    errors, warnings = validate("good", "v1.0.0")
    assert errors == []
    assert len(warnings) == 3
    for name, version in (("good", "v1"), ("good", "v1.1.0"), ("bad", "v1"), ("bad", "v1.0.0"), ("worse", "v1")):
        (error,), _ = validate(name, version)
        assert "cannot be loaded: " in error, (name, version)
    (error,), _ = validate("bad", "v2")
    assert "there is no policy 'bad'" in error


def test_policies_are_validated_by_manifest_or_directory(tmp_path: Path, registry: Registry) -> None:
    good = write_policy(tmp_path)
    bad = write_policy(tmp_path, "bad", code="import nowhere_at_all\n")
    assert validate_paths([good, good / "policy.yaml"], registry) == []
    for path in (bad, bad / "policy.yaml"):
        assert "nowhere_at_all" in str(validate_paths([path], registry)[0])


def test_conditions_know_the_phases_of_the_policy(tmp_path: Path, registry: Registry) -> None:
    file = tmp_path / "chains.yaml"
    policy = "{name: tested, version: v1, condition: response.status == 200}"
    file.write_text(f"version: v1\nroutes: [{{route_key: a, policies: [{policy}]}}]")
    (found,) = validate_paths([file], registry)
    assert "is not known when the request is handled" in str(found)


def test_what_is_not_there_is_a_finding(tmp_path: Path, registry: Registry) -> None:
    (found,) = validate_paths([tmp_path / "absent"], registry)
    assert "cannot be read" in str(found)


def test_settings_reach_the_reader(tmp_path: Path, registry: Registry) -> None:
    loaded = chain_reader(registry).read_route(
        "r", {"route_key": "r", "policies": [{"name": "tested", "version": "v1"}]}
    )
    assert loaded.chains is not None
    assert loaded.chains.routes[0].policies[0].timeout == 1.0


def test_findings_end(tmp_path: Path, registry: Registry) -> None:
    """Whoever breaks everything at once gets the first thousand findings, not minutes of them."""
    many = tmp_path / "many.yaml"
    many.write_text("version: v1\nroutes:\n" + "- {route_key: r, policies: [{name: nope, version: v1, x: 1}]}\n" * 5000)
    doubled = tmp_path / "doubled.yaml"
    doubled.write_text("version: v1\nroutes: []\n" * 5000)
    for paths in ([many], [doubled], [many, doubled], [doubled, many]):
        found = validate_paths(paths, registry)
        assert len(found) == MOST_FINDINGS + 1
        assert "there are more than 1000 findings" in str(found[-1])


def test_files_of_every_kind_are_refused_in_bounded_time(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "good.yaml").write_text("version: v1\nroutes: []\n")
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    (tmp_path / "gone.yaml").symlink_to("/nowhere/at/all")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    # What editors leave behind is no configuration.
    for name in (".good.yaml.swp", "good.yaml~", "4913", "#good.yaml#", ".#good.yaml"):
        (tmp_path / name).write_text("no: [yaml")
    (tmp_path / "directory.yaml").mkdir()
    found = {Path(one.file).name: one.reason for one in validate_paths([tmp_path], registry)}
    assert found == {
        "device.yaml": "cannot be read: it is not a regular file",
        "fifo.yaml": "cannot be read: it is not a regular file",
        "gone.yaml": "cannot be read: No such file or directory",
        "loop.yaml": "cannot be read: Too many levels of symbolic links",
    }
    assert "it is not a regular file" in str(validate_paths([tmp_path / "fifo.yaml"], registry))


def test_files_that_are_too_large_together_are_not_held(tmp_path: Path, registry: Registry) -> None:
    for number in range(5):
        (tmp_path / f"{number}.yaml").write_bytes(b"version: v1\nroutes: []\n" + b"#" * (15 << 20))
    (found,) = validate_paths([tmp_path], registry)
    assert str(found) == f"{tmp_path}/4.yaml: the files up to this one are together larger than 64 MiB"


def test_a_path_that_cannot_even_be_looked_at_is_a_finding(registry: Registry) -> None:
    # As without the permission for a directory, which root always has.
    (found,) = validate_paths([Path("x" * 300)], registry)
    assert found.reason == "cannot be read: File name too long"
