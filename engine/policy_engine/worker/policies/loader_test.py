"""Policies loaded from directories: versions side by side, and every way in which code and manifest disagree."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from policy_engine.sdk.hooks import Phase
from policy_engine.worker.policies.integrity import directory_digest, verify
from policy_engine.worker.policies.loader import load_policy, load_policy_tree, load_registry_file
from policy_engine.worker.policies.registry import Registry, UnusablePolicy, Version
from testsupport.policy_directories import CODE, MANIFEST, write_policy

RELATIVE = """\
from policy_engine.sdk import Policy
from .rules import VALUE
from . import rules

class Tested(Policy):
    VALUE = VALUE
    RULES = rules

    def on_request_headers(self, request): ...
"""


def errors(directory: Path) -> list[str]:
    definition, diagnostics = load_policy(directory)
    assert definition is None
    return [str(one) for one in diagnostics]


def test_a_directory_becomes_a_definition(tmp_path: Path) -> None:
    directory = write_policy(tmp_path)
    definition, diagnostics = load_policy(directory)
    assert diagnostics == []
    assert definition is not None
    assert (definition.name, definition.version) == ("tested", Version(1, 0, 0))
    assert definition.phases == {Phase.REQUEST_HEADERS}
    assert definition.digest == directory_digest(directory)
    assert definition.source == directory
    definition.policy_class({})


def test_versions_do_not_share_modules(tmp_path: Path) -> None:
    for version, value in (("v1.0.0", 1), ("v2.0.0", 2)):
        directory = write_policy(tmp_path, version=version, code=RELATIVE)
        (directory / "rules.py").write_text(f"VALUE = {value}\n")
    before = set(sys.path)
    registry, diagnostics = load_policy_tree(tmp_path)
    assert registry is not None, diagnostics
    old, new = (registry.resolve("tested", version).policy_class for version in ("v1", "v2"))
    assert (vars(old)["VALUE"], vars(new)["VALUE"]) == (1, 2)
    assert vars(old)["RULES"] is not vars(new)["RULES"]
    assert set(sys.path) == before
    assert "rules" not in sys.modules
    assert "policy" not in sys.modules


def test_a_package_with_init_and_a_nested_entrypoint(tmp_path: Path) -> None:
    manifest = MANIFEST.replace("policy:Tested", "inner.code:Tested")
    directory = write_policy(tmp_path, manifest=manifest)
    (directory / "__init__.py").write_text("ORIGIN = 'init'\n")
    (directory / "inner").mkdir()
    (directory / "inner" / "code.py").write_text(
        "from .. import ORIGIN\nfrom ..policy import Tested\nTested.ORIGIN = ORIGIN\n"
    )
    definition, diagnostics = load_policy(directory)
    assert definition is not None, diagnostics
    assert vars(definition.policy_class)["ORIGIN"] == "init"


@pytest.mark.parametrize(
    ("code", "place", "reason"),
    [
        ("import nowhere_at_all\n", "policy.py:1:1", "is 'nowhere_at_all' among the policy's requirements?"),
        ("\nimport sibling\n", "policy.py:2:1", "a policy imports its own modules relatively: from . import sibling"),
        ("\n\nfrom .absent import x\n", "policy.py:3:1", "there is no module absent in"),
        ("x = 1\ny = (\n", "policy.py:2:5", "is not valid Python: '(' was never closed"),
        ("def f():\n    raise ValueError('at import')\nf()\n", "policy.py:2:1", "ValueError: at import"),
        ("import sys\nsys.exit(1)\n", "policy.py:2:1", "SystemExit: 1"),
        ("from policy_engine.sdk import Nothing\n", "policy.py:1:1", "ImportError: cannot import name 'Nothing'"),
    ],
)
def test_imports_that_fail_are_reported_where(tmp_path: Path, code: str, place: str, reason: str) -> None:
    directory = write_policy(tmp_path, code=code.replace("{", "{{").replace("}", "}}"))
    (directory / "sibling.py").write_text("")
    (found,) = errors(directory)
    assert place.removesuffix(":5").removesuffix(":1") in found
    assert reason in found
    assert not any(
        name.startswith("policy_tested") and str(tmp_path) in str(module) for name, module in sys.modules.items()
    )


def test_a_mended_policy_loads_after_a_failure(tmp_path: Path) -> None:
    directory = write_policy(tmp_path, code="import nowhere_at_all\n")
    assert errors(directory)
    (directory / "policy.py").write_text(CODE.format(version="v1.0.0") + "# longer than before\n")
    assert load_policy(directory)[0] is not None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("Tested = 5\n", "policy:Tested is not a subclass of policy_engine.sdk.Policy"),
        ("class Tested: ...\n", "policy:Tested is not a subclass of policy_engine.sdk.Policy"),
        ("from policy_engine.sdk import Policy as Tested\n", "policy:Tested is not a subclass"),
        (
            "from policy_engine.sdk import Policy\nclass Testd(Policy): ...\n",
            "module policy has no class 'Tested'; allowed: policy:Testd",
        ),
        (
            "from policy_engine.sdk import Policy\nclass Tested(Policy): ...\n",
            "policy.yaml:5:10: /phases/0: declares request_headers, but Tested does not override on_request_headers",
        ),
    ],
)
def test_the_class_must_be_what_the_manifest_says(tmp_path: Path, code: str, reason: str) -> None:
    (found,) = errors(write_policy(tmp_path, code=code))
    assert reason in found


def test_hooks_that_nobody_declared_are_refused(tmp_path: Path) -> None:
    code = """
from policy_engine.sdk import Policy

class Base(Policy):
    def on_response_chunk(self, request, response, chunk): ...

class Tested(Base):
    def on_request_headers(self, request): ...
    def on_request_trailers(self, request, trailers): ...
    def on_stream_end(self, request): ...
"""
    found = errors(write_policy(tmp_path, code=code))
    assert len(found) == 2
    assert "Tested overrides on_request_trailers, which would never run; allowed: add request_trailers" in found[0]
    assert "Tested overrides on_response_chunk, which would never run; allowed: add response_body" in found[1]


def test_a_chunk_hook_counts_as_body_phase(tmp_path: Path) -> None:
    code = CODE.replace("on_request_headers(self, request)", "on_request_chunk(self, request, chunk)")
    directory = write_policy(tmp_path, manifest=MANIFEST.replace("[request_headers]", "[request_body]"), code=code)
    assert load_policy(directory)[1] == []


def test_a_misspelt_hook_is_warned_of(tmp_path: Path) -> None:
    code = CODE + "\n    def on_request_header(self, request): ...\n"
    definition, diagnostics = load_policy(write_policy(tmp_path, code=code))
    assert definition is not None
    assert "warning" in str(diagnostics[0])
    assert "on_request_header is not a hook the engine knows" in str(diagnostics[0])


def test_a_tree_reports_all_broken_policies_at_once(tmp_path: Path) -> None:
    write_policy(tmp_path)
    write_policy(tmp_path, "broken-code", code="import nowhere_at_all\n")
    (write_policy(tmp_path, "broken-manifest") / "policy.yaml").write_text("name: x\n")
    write_policy(tmp_path, "misplaced").rename(tmp_path / "misplaced" / "v9_9_9")
    (tmp_path / "shared" / "library").mkdir(parents=True)
    (tmp_path / "tested" / "v3_0_0").mkdir()
    registry, diagnostics = load_policy_tree(tmp_path)
    assert registry is None
    text = "\n".join(map(str, diagnostics))
    assert "is 'nowhere_at_all' among" in text
    assert "broken-manifest/v1_0_0/policy.yaml:1:1: lacks the required key 'version'" in text
    assert "policy misplaced v1.0.0 belongs in the directory misplaced/v1_0_0" in text
    assert "tested/v3_0_0/policy.yaml: cannot be read" in text
    assert "shared" not in text


def test_a_tree_that_is_none(tmp_path: Path) -> None:
    assert "is not a directory of policies" in str(load_policy_tree(tmp_path / "absent")[1][0])


def write_registry(root: Path, **changes: str) -> Path:
    entry = {
        "name": "tested",
        "version": "v1.0.0",
        "entrypoint": "policy:Tested",
        "directory": "policies/tested/v1_0_0",
        "digest": "sha256:abc",
    }
    path = root / "registry.json"
    path.write_text(json.dumps([entry | changes], indent=2))
    return path


def test_registry_json(tmp_path: Path) -> None:
    directory = write_policy(tmp_path / "policies")
    registry, diagnostics = load_registry_file(write_registry(tmp_path))
    assert diagnostics == ()
    assert registry is not None
    # Of the code that runs, whatever the registry says: integrity_test.py compares the two.
    assert registry.resolve("tested", "v1").digest == directory_digest(directory)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "v2.0.0"}, 'registry.json:4:16: /0/version: does not agree with'),
        ({"entrypoint": "policy:Other"}, "/0/entrypoint: does not agree with"),
        ({"directory": "absent"}, "absent/policy.yaml: cannot be read"),
        ({"colour": "red"}, "'colour' is not a key of a registry entry"),
        ({"digest": ""}, "/0/digest: must not be empty"),
    ],
)  # fmt: skip
def test_registry_json_that_does_not_fit(tmp_path: Path, changes: dict[str, str], reason: str) -> None:
    write_policy(tmp_path / "policies")
    registry, diagnostics = load_registry_file(write_registry(tmp_path, **changes))
    assert registry is None
    assert len(diagnostics) == 1, diagnostics
    assert reason in str(diagnostics[0])


def test_registry_json_with_the_same_policy_twice(tmp_path: Path) -> None:
    write_policy(tmp_path / "policies")
    path = write_registry(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) * 2))
    registry, diagnostics = load_registry_file(path)
    assert registry is None
    assert "policy tested v1.0.0 is defined twice" in str(diagnostics[0])


@pytest.mark.parametrize("content", [b"{}", b"[1]", b"[", b"\xff"])
def test_registry_json_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "registry.json"
    path.write_bytes(content)
    registry, diagnostics = load_registry_file(path)
    assert registry is None
    assert diagnostics
    assert load_registry_file(tmp_path / "absent.json")[0] is None


def on_demand(root: Path, *, strict: bool = False, **changes: str) -> Registry:
    path = write_registry(root, **changes)
    registry, diagnostics = load_registry_file(path, verify(path, engine=False), strict=strict)
    assert registry is not None, diagnostics
    return registry


def test_a_policy_on_demand_is_imported_when_it_is_named(tmp_path: Path) -> None:
    directory = write_policy(
        tmp_path / "policies", code=CODE + "\nimport sys\nsys.modules['imported_by_tested'] = sys\n"
    )
    registry = on_demand(tmp_path)
    assert (len(registry), registry.names(), str(registry)) == (1, ("tested",), "Registry(tested v1.0.0)")
    assert list(registry.loaded()) == []
    (listed,) = registry.listing()
    assert (listed.source, listed.digest) == (directory, directory_digest(directory))
    assert "imported_by_tested" not in sys.modules
    definition = registry.resolve("tested", "v1")
    assert sys.modules.pop("imported_by_tested") is sys
    assert definition.digest == directory_digest(directory)
    assert registry.resolve("tested", "v1.0.0") is definition
    assert list(registry) == list(registry.loaded()) == list(registry.listing()) == [definition]


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({"version": "v1.0.1"}, CODE, "registry.json:4:16: /0/version: does not agree with"),
        ({"entrypoint": "policy:Other"}, CODE, "/0/entrypoint: does not agree with"),
        ({}, "import absent_from_here", "is 'absent_from_here' among the policy's requirements"),
        ({}, "class Tested: ...", "is not a subclass of policy_engine.sdk.Policy"),
    ],
)
def test_what_is_wrong_with_a_policy_on_demand_is_for_who_names_it(
    tmp_path: Path, changes: dict[str, str], code: str, reason: str
) -> None:
    write_policy(tmp_path / "policies", code=code)
    registry = on_demand(tmp_path, strict=False, **changes)
    for _ in range(2):  # as often as it is named
        with pytest.raises(UnusablePolicy, match=re.escape(reason)):
            registry.resolve("tested", "v1")


def test_strict_compares_a_policy_on_demand_once_more(tmp_path: Path) -> None:
    directory = write_policy(tmp_path / "policies")
    (tmp_path / "build-info.json").write_text(json.dumps({"engine": {}, "libraries": []}))
    reviewed = directory_digest(directory)
    late = on_demand(tmp_path, strict=True, digest=reviewed)
    assert on_demand(tmp_path, strict=True, digest=reviewed).resolve("tested", "v1").digest == reviewed
    with (directory / "policy.py").open("a") as file:
        file.write("\n")
    with pytest.raises(UnusablePolicy, match="is not what was reviewed"):
        late.resolve("tested", "v1")


def test_metrics_of_policies_on_demand_are_of_one_kind(tmp_path: Path) -> None:
    entries = []
    for version, metric in (("v1.0.0", "Counter('Seen.')"), ("v1.1.0", "Histogram('Seen.', buckets=(1.0,))")):
        code = CODE.replace("class Tested(Policy):", f"class Tested(Policy):\n    seen = {metric}\n")
        directory = write_policy(tmp_path, version=version, code=f"from policy_engine.sdk import *\n{code}")
        (entry,) = json.loads(write_registry(tmp_path, directory=str(directory), version=version).read_text())
        entries.append(entry)
    path = tmp_path / "registry.json"
    path.write_text(json.dumps(entries))
    registry, _ = load_registry_file(path, verify(path, engine=False))
    assert registry is not None
    assert str(registry.resolve("tested", "v1.0.0")) == "tested v1.0.0"
    with pytest.raises(UnusablePolicy, match="give one of them another name"):
        registry.resolve("tested", "v1")
