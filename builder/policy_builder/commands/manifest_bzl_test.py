"""What Bazel reads of a manifest is what `policy-builder` reads of it; the rest is refused by line (builder/manifest.bzl).

Bazel has run the parser on the manifests of builder/manifest_cases.bzl before; without Bazel there is nothing to test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policy_builder.discover.choice import read_choice

PARSED: dict[str, dict[str, Any]] = json.loads(Path("builder/parsed_manifests.json").read_text())

ACCEPTED = ("block entries", "entries at the margin", "flow entries", "image", "modules", "no policies", "other lists")
REFUSED_BY_BOTH = {
    "key twice": '4: "name" is here for the second time',
    "label twice": '4: "a" is here for the second time',
    "no compression": "2: compression is one of gzip, none",
    "no item": "3: expected `- name: …`",
    "no list": "2: policies is a list, one `- name: …` for each",
    "no mapping": '2: expected a mapping such as {a: b}, not "[a]"',
    "no list of wheels": '2: expected a list such as [a, b], not "dist"',
    "no name": '3: lacks the required key "name"',
    "no policies key": ' lacks the required key "policies"',
    "no value": '3: Bazel reads one plain value here, not ""',
    "no version": ' lacks the required key "version"',
    "no version of a policy": '3: lacks the required key "version"',
    "other version": "1: version is v1",
    "policies twice": '3: "policies" is here for the second time',
    "tab": "3: has a tab; YAML is indented with spaces",
    "text before any key": "1: expected a key",
    "unknown key": '2: "policys" is not a key of a manifest of policies; allowed: annotations, compression, configuration',
    "unknown key of a policy": '4: "verson" is not a key of a chosen policy; allowed: module, name, package, path, version',
}
REFUSED_BY_BAZEL = {
    "anchors": '3: "&a" is not a key',
    "flow over lines": "3: Bazel reads `{…}` on one line only",
    "multi-line text": '3: Bazel reads one plain value here, not ">"',
}


MANY = "many mistakes"
ALL_OF_THEM = [
    "1: version is v1",
    '2: "policys" is not a key of a manifest of policies',
    '5: Bazel reads one plain value here, not ">"',
    '6: "verson" is not a key of a chosen policy',
    '7: "nam" is not a key of a chosen policy',
    '5: lacks the required key "version"',
    '7: lacks the required key "name"',
    "10: policy b v1.0.0 is chosen twice; first at policy-manifest.yaml:8",
]


def test_every_case_is_looked_at() -> None:
    assert set(PARSED) == {*ACCEPTED, *REFUSED_BY_BOTH, *REFUSED_BY_BAZEL, MANY}


@pytest.mark.parametrize("case", ACCEPTED)
def test_bazel_reads_what_policy_builder_reads(case: str, tmp_path: Path) -> None:
    parsed = PARSED[case]
    assert parsed["error"] is None
    for name in ("dist", "more", "shared"):
        (tmp_path / name).mkdir()
    (tmp_path / "engine.yaml").touch()
    manifest = tmp_path / "policy-manifest.yaml"
    manifest.write_text(parsed["text"])
    modules = {name: tmp_path / "modules" / name for name in ("policy_engine", "other")}
    choice, diagnostics = read_choice(manifest, modules)
    assert choice is not None, diagnostics
    assert not diagnostics
    assert parsed["repository"] == choice.repository
    settings, container = parsed["settings"], choice.container
    assert [tmp_path / one for one in settings.get("configuration", ())] == list(choice.configuration)
    assert tuple(settings.get("tags", ())) == container.tags
    for name in ("annotations", "env", "labels"):
        assert settings.get(name, {}) == getattr(container, name)
    assert settings.get("compression", "gzip") == container.compression
    assert [(one["name"], one["version"]) for one in parsed["policies"]] == [
        (one.name, str(one.version)) for one in choice.policies
    ]
    for one, policy in zip(parsed["policies"], choice.policies, strict=True):
        assert one.get("package", "") == ("==".join(policy.package) if policy.package else "")
        base = modules.get(one.get("module"), tmp_path)
        if "package" not in one:
            assert base / one.get("path", f"policies/{one['name']}/{one['version'].replace('.', '_')}") == policy.path


@pytest.mark.parametrize(("case", "expected"), [*REFUSED_BY_BOTH.items(), *REFUSED_BY_BAZEL.items()])
def test_refused_by_line(case: str, expected: str, tmp_path: Path) -> None:
    message = PARSED[case]["error"]
    assert message is not None
    assert message.startswith(f"policy-manifest.yaml:{expected}"), message
    manifest = tmp_path / "policy-manifest.yaml"
    manifest.write_text(PARSED[case]["text"])
    if case in REFUSED_BY_BOTH:
        assert read_choice(manifest)[1], "refused, whatever else could be read"


def test_all_mistakes_are_told_at_once() -> None:
    lines = PARSED[MANY]["error"].splitlines()
    assert len(lines) == len(ALL_OF_THEM), lines
    for line, expected in zip(lines, ALL_OF_THEM, strict=True):
        assert line.startswith(f"policy-manifest.yaml:{expected}"), line
