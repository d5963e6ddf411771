"""Choices of several policies: how requirements go together, and a test for each choice that is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from policy_builder.discover.platform import Platform
from policy_builder.discover.wheels import FetchError
from policy_builder.testworld import CODE, MANIFEST, World, elf, make_wheel, sha256
from policy_builder.validate.report import Report
from policy_builder.validate.validation import validate


def test_two_policies_that_pin_different_versions_are_both_named_with_the_way_out(world: World) -> None:
    world.locked("lib", "1.0")
    world.policy("one", requirements="# pinned\nlib==1.0\n")
    world.policy("two", requirements="lib==2.0\n")
    report = world.report()
    assert (
        "one v1.0.0\n  policies/one/v1_0_0/requirements.txt:2:1: lib==1.0 contradicts two v1.0.0, which pins lib==2.0 "
        "(policies/two/v1_0_0/requirements.txt:1); allowed: one version for both (an image has one of each "
        "package), or two images" in report
    )
    assert "two v1.0.0\n  policies/two/v1_0_0/requirements.txt:1:1: lib==2.0 contradicts one v1.0.0" in report


def test_a_policy_cannot_replace_what_the_engine_needs(world: World) -> None:
    world.policy("one", requirements="Engine_Core==2.0\n")
    assert (
        "one v1.0.0\n  policies/one/v1_0_0/requirements.txt:1:1: Engine_Core==2.0 would replace engine-core 1.0, which "
        "the engine itself needs; its requirements cannot be replaced; allowed: engine-core 1.0" in world.report()
    )


def test_a_policy_may_pin_what_the_engine_needs_in_the_same_version(world: World) -> None:
    world.policy("one", requirements="engine-core==1.0\n", code="import engine_core\n" + CODE)
    plan, report = world.validate()
    assert plan is not None, report.render_text()
    assert plan.resolution.required_by("engine-core") == ("engine", "one v1.0.0")
    assert not plan.resolution.additional().distributions


def test_what_the_engine_brings_must_be_pinned_to_be_imported(world: World) -> None:
    world.policy("one", code="import engine_core\n" + CODE)
    assert "imports engine_core, which is there only because the engine needs it today; allowed: pin engine-core" in (
        world.report()
    )


def test_a_pin_against_the_lock(world: World) -> None:
    world.locked("lib", "1.0")
    world.policy("one", requirements="lib==1.1\n")
    assert "lib==1.1 contradicts the lock, which has lib==1.0 (lock.txt:3)" in world.report()


def test_an_extra_that_the_lock_lacks(world: World) -> None:
    world.locked("lib", "1.0", requires=["more; extra == 'all'"])
    world.policy("one", requirements="lib[all]==1.0\n")
    assert "lib[all]==1.0 needs the extra all, which the lock's lib==1.0 (lock.txt:3) lacks" in world.report()


def test_extras_of_the_lock_are_followed_also_through_each_other(world: World) -> None:
    world.locked("lib", "1.0", extras="[all]", requires=["lib[one]; extra == 'all'", "more>=1; extra == 'one'"])
    world.locked("more", "1.0")
    world.policy("one", requirements="lib[all]==1.0\n")
    plan, report = world.validate()
    assert plan is not None, report.render_text()
    assert set(plan.resolution.additional().distributions) == {"lib", "more"}


def test_a_pin_that_nothing_has_a_hash_of(world: World) -> None:
    world.policy("one", requirements="lib==1.0\n")
    assert "lib==1.0 is not in the lock lock.txt and has no hashes of its own; allowed: add it" in world.report()


def test_a_policy_may_bring_the_hash_itself(world: World) -> None:
    wheel = make_wheel(world.wheels, "lib", "1.0")
    world.policy("one", requirements=f"lib==1.0 --hash={sha256(wheel)}\n", code="import lib\n" + CODE)
    plan, report = world.validate()
    assert plan is not None, report.render_text()


def test_what_a_requirement_needs_in_turn_must_be_pinned_and_fit(world: World) -> None:
    world.locked("lib", "1.0", requires=["absent>=2", "old<1"])
    world.locked("old", "1.5")
    world.policy("one", requirements="lib==1.0\n")
    report = world.report()
    assert "lib 1.0 needs absent>=2, which nothing pins" in report
    assert "lock.txt:5:1: lib 1.0 needs old<1, but old==1.5 is pinned; allowed: <1" in report


def test_the_engine_is_judged_like_a_policy(world: World) -> None:
    world.engine_needs("engine-core>=2", "more")
    world.policy("one")
    report = world.report()
    assert "the engine\n" in report
    assert "the engine needs engine-core>=2, but engine-core==1.0 is pinned" in report
    assert "the engine needs more, which nothing pins" in report


def test_two_distributions_that_install_one_file_differently(world: World) -> None:
    world.locked("lib-a", "1.0", files={"shared/__init__.py": "A = 1\n", "same.py": ""})
    world.locked("lib-b", "1.0", files={"shared/__init__.py": "B = 1\n", "same.py": ""})
    world.policy("one", requirements="lib-a==1.0\n")
    world.policy("two", requirements="lib-b==1.0\n")
    report = world.report()
    assert "lib-b 1.0 and lib-a 1.0 both install shared/__init__.py, with different content" in report
    assert "same.py" not in report


def test_a_requirement_that_would_hide_the_engine_or_its_requirements(world: World) -> None:
    world.locked("evil", "1.0", files={"policy_engine/__init__.py": "", "engine_core/__init__.py": "bad\n"})
    world.policy("one", requirements="evil==1.0\n")
    report = world.report()
    assert "evil 1.0 brings a package policy_engine, which would hide the engine" in report
    assert "evil 1.0 and engine-core 1.0 both install engine_core/__init__.py" in report


@pytest.mark.parametrize("file", ["six/__init__.py", "six.cpython-313-x86_64-linux-gnu.so", "six.abi3.so"])
def test_a_module_of_the_engine_cannot_be_hidden_by_one_of_another_form(world: World, file: str) -> None:
    world.locked("six", "1.0", files={"six.py": "", "name/space.py": ""})
    world.engine_needs("engine-core", "six")
    world.locked("evil", "1.0", files={file: b"", "name/other.py": "", "other/six.py": ""})
    world.policy("one", requirements="evil==1.0\n")
    report = world.report()
    assert f"evil 1.0 brings {file}, and six 1.0 six.py: one would hide the other when it is imported" in report
    assert report.endswith("\n1 error\n")


def test_everything_wrong_with_every_policy_is_in_one_report(world: World) -> None:
    world.policy("one", code=CODE.replace("on_request_headers", "on_request_header"), requirements="lib>=1\n")
    broken = MANIFEST.format(name="two", version="v1.0.0").replace("entrypoint", "entry") + "examples: 3\n"
    world.policy("two", policy__yaml=broken)
    example = MANIFEST.format(name="three", version="v1.0.0")
    example += "examples:\n  - description: wrong\n    parameters: {limit: many}\n"
    world.policy("three", policy__yaml=example)
    world.choose("name: four, version: v1.0.0")
    text = world.report()
    for subject, finding in [
        ("one v1.0.0", "did you mean 'on_request_headers'?"),
        ("one v1.0.0", "lib is not pinned"),
        ("two v1.0.0", "'entry' is not a key of a policy manifest; did you mean 'entrypoint'?"),
        ("two v1.0.0", "/examples: must be a list"),
        ("three v1.0.0", "policies/three/v1_0_0/policy.yaml:14:25: /examples/0/parameters/limit"),
        ("four v1.0.0", "policies/four/v1_0_0: is no directory"),
    ]:
        _, _, after = text.partition(f"{subject}\n")
        own = after.split("\n", 1)[0] if "\n  " not in after else "\n".join(line for line in _block(after))
        assert finding in own, text
    _, report = world.validate()
    document = json.loads(report.render_json())
    assert document["errors"] >= 6
    assert [one["subject"] for one in document["subjects"]] == [
        "four v1.0.0",
        "one v1.0.0",
        "three v1.0.0",
        "two v1.0.0",
    ]
    assert document["subjects"][0]["findings"][0]["rule"] == "unreadable-file"


def _block(text: str) -> list[str]:
    lines = []
    for line in text.splitlines():
        if not line.startswith("  "):
            break
        lines.append(line)
    return lines


def test_name_and_version_must_be_what_was_chosen(world: World) -> None:
    world.policy("one", policy__yaml=MANIFEST.format(name="uno", version="v1.0.1"))
    report = world.report()
    assert (
        'policy.yaml:1:7: /name: the policy chosen here is one v1.0.0; make them equal (got "uno"); allowed: one'
        in report
    )
    assert "policy.yaml:2:10: /version: the policy chosen here" in report


def test_a_policy_without_manifest(world: World) -> None:
    (world.policy("one") / "policy.yaml").unlink()
    assert "policies/one/v1_0_0: has no policy.yaml; `policy-engine new-policy NAME` makes" in world.report()


def test_a_missing_readme_and_missing_tests_are_warnings(world: World) -> None:
    directory = world.policy("one")
    (directory / "README.md").unlink()
    (directory / "policy_test.py").unlink()
    plan, report = world.validate()
    assert plan is not None
    assert "warning: has no README.md" in report.render_text()
    assert "warning: has no test (*_test.py)" in report.render_text()
    assert report.summary() == "0 errors, 2 warnings"


def test_links_do_not_lead_out_of_a_policy(world: World) -> None:
    directory = world.policy("one")
    (directory / "secret.txt").symlink_to("/etc/hostname")
    assert "policies/one/v1_0_0/secret.txt: is not a regular file" in world.report()
    (directory / "secret.txt").unlink()
    os.mkfifo(directory / "pipe")
    assert "policies/one/v1_0_0/pipe: is not a regular file" in world.report()


def test_compiled_code_in_a_policy_is_named(world: World, tmp_path: Path) -> None:
    directory = world.policy("one")
    (directory / "fast.cpython-313-x86_64-linux-gnu.so").write_bytes(elf())
    (directory / "table.dat").write_bytes(elf(183))
    report = world.report()
    for name in ("fast.cpython-313-x86_64-linux-gnu.so", "table.dat"):
        assert f"policies/one/v1_0_0/{name}: is compiled code (ELF); a policy is source that can be read" in report
    assert "allowed: a wheel that has it, pinned in requirements.txt" in report


def test_links_do_not_lead_out_of_a_library(world: World, tmp_path: Path) -> None:
    world.settings += "libraries: [shared]\n"
    (tmp_path / "shared/tokens").mkdir(parents=True)
    (tmp_path / "shared/tokens/__init__.py").write_text("")
    (tmp_path / "shared/tokens/secret.txt").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "shared/tokens/pipe")
    world.policy("one", code="import tokens\n" + CODE)
    report = world.report()
    assert "library tokens\n  shared/tokens/pipe: is not a regular file: it is a pipe" in report
    assert "shared/tokens/secret.txt: is not a regular file: it is a link" in report


def test_a_policy_from_a_wheel_has_the_limits_of_any_policy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, str | bytes] = {**package_files(), "acme/quota/data.bin": bytes((1 << 20) + 1)}
    make_wheel(world.wheels, "acme-policies", "1.4.0", files, entry_points=ENTRY)
    world.choose("name: quota, version: v1.2.0, package: acme-policies==1.4.0")
    plan, _ = world.validate()
    assert plan is not None
    monkeypatch.setattr("policy_builder.discover.policy_source.MAX_BYTES", 1 << 20)
    assert "acme-policies-1.4.0/acme/quota: holds more than 2000 files or 1 MiB" in world.report()


def test_wheels_that_are_not_unpacked_are_findings_beside_all_others(world: World) -> None:
    evil = {"lib/__init__.py": "", "../evil.py": ""}
    world.locked("lib", "1.0", files=evil)
    make_wheel(world.wheels, "acme-policies", "1.4.0", {**package_files(), "/evil.py": ""}, entry_points=ENTRY)
    world.policy("one", code="import nowhere\n" + CODE, requirements="lib==1.0\n")
    world.choose("name: quota, version: v1.2.0, package: acme-policies==1.4.0")
    report = world.report()
    assert "lib-1.0-py3-none-any.whl: has '../evil.py', which is no name of a file below its directory" in report
    assert "acme_policies-1.4.0-py3-none-any.whl: has '/evil.py', which is no name of a file" in report
    assert "imports nowhere" in report
    assert not list(world.root.rglob("evil.py"))


@pytest.mark.parametrize(
    "line",
    ["x ==", "x; os_name ~= 'a'", "x; " + "(" * 5000 + "os_name == 'a'" + ")" * 5000],
)
def test_metadata_that_cannot_be_read_is_a_finding(world: World, line: str) -> None:
    world.locked("lib", "1.0", requires=[line])
    world.policy("one", requirements="lib==1.0\n")
    assert "METADATA has a requirement that cannot be read" in world.report()


def test_a_path_that_is_too_much_for_one_policy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policy_builder.discover.policy_source.MAX_FILES", 4)
    world.policy("one")
    assert "holds more than 4 files or 64 MiB; is this the directory of one policy?" in world.report()


def test_a_file_that_is_too_much_for_one_policy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policy_builder.discover.policy_source.MAX_BYTES", 1 << 20)
    (world.policy("one") / "data.bin").write_bytes(bytes((1 << 20) + 1))
    assert "holds more than 2000 files or 1 MiB; is this the directory of one policy?" in world.report()


def test_no_code_of_a_policy_is_run(world: World, tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    world.locked("lib", "1.0", files={"lib/__init__.py": trap})
    world.policy("one", code=trap + "import lib\n" + CODE, requirements="lib==1.0\n")
    world.build(tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_library_of_the_repository_comes_with_what_imports_it(world: World, tmp_path: Path) -> None:
    world.settings += "libraries: [shared]\n"
    world.locked("lib", "1.0")
    for name, code in {"tokens": "import lib\nfrom keys import x\n", "keys": "", "unused": ""}.items():
        (tmp_path / "shared" / name).mkdir(parents=True)
        (tmp_path / "shared" / name / "__init__.py").write_text(code)
        (tmp_path / "shared" / name / "testing.py").write_text("")
    (tmp_path / "shared/tokens/requirements.txt").write_text("lib==1.0\n")
    world.policy("one", code="import tokens\n" + CODE)
    plan, report = world.validate()
    assert plan is not None, report.render_text()
    additional = plan.resolution.additional()
    assert [one.name for one in additional.libraries] == ["keys", "tokens"]
    assert set(additional.libraries[1].files) == {"tokens/__init__.py"}
    assert set(additional.distributions) == {"lib"}


def test_pins_of_a_library_are_held_against_those_of_policies(world: World, tmp_path: Path) -> None:
    world.settings += "libraries: [shared]\n"
    world.locked("lib", "1.0")
    (tmp_path / "shared/tokens").mkdir(parents=True)
    (tmp_path / "shared/tokens/__init__.py").write_text("")
    (tmp_path / "shared/tokens/requirements.txt").write_text("lib==2.0\n")
    world.policy("one", code="import tokens\n" + CODE, requirements="lib==1.0\n")
    assert (
        "lib==1.0 contradicts library tokens, which pins lib==2.0 (shared/tokens/requirements.txt:1)" in world.report()
    )


ENTRY = "[policy_engine.policies]\nquota = acme.quota\nother = acme.other\n"


def package_files(name: str = "quota", version: str = "v1.2.0", code: str = CODE) -> dict[str, str]:
    manifest = MANIFEST.format(name=name, version=version)
    return {
        "acme/__init__.py": "",
        "acme/quota/policy.yaml": manifest,
        "acme/quota/policy.py": code,
        "acme/quota/README.md": "",
        "acme/quota/policy_test.py": "",
        "acme/other/policy.yaml": MANIFEST.format(name="other", version="v1.0.0"),
    }


def test_a_policy_from_a_wheel_with_what_the_wheel_needs(world: World, tmp_path: Path) -> None:
    world.locked("lib", "1.0")
    make_wheel(
        world.wheels, "acme-policies", "1.4.0", package_files(code="import lib\n" + CODE),
        requires=["lib>=1", "policy-engine>=0.1"], entry_points=ENTRY,
    )  # fmt: skip
    world.choose("name: quota, version: v1.2.0, package: acme-policies==1.4.0")
    plan, report = world.validate()
    assert plan is not None, report.render_text()
    (policy,) = plan.policies
    assert set(policy.files) == {"policy.yaml", "policy.py", "README.md"}
    assert set(plan.resolution.additional().distributions) == {"lib"}
    built = world.build(tmp_path / "out")
    assert "quota.v1.2.0" in [name for name, _ in built.layers]


ACME = "version: v1.2.0, package: acme-policies==1.4.0"


@pytest.mark.parametrize(
    ("chosen", "entry_points", "expected"),
    [
        (
            "version: v1.2.0, package: acme-policies==1.5.0",
            ENTRY,
            "package acme-policies==1.5.0 is neither in the lock",
        ),
        ("version: v2.0.0, package: acme-policies==1.4.0", ENTRY, "offer quota v2.0.0; did you mean 'quota v1.2.0'?"),
        ("version: v2.0.0, package: acme-policies==1.4.0", ENTRY, "allowed: other v1.0.0, quota v1.2.0"),
        (ACME, "", "nothing: it has no entry point in the group policy_engine.policies"),
        (ACME, "[policy_engine.policies]\nq = acme\n", "allowed: acme (without policy.yaml)"),
        (ACME, "no section\n", "nothing: it has no entry point"),
    ],
)
def test_packages_that_do_not_have_the_policy(world: World, chosen: str, entry_points: str, expected: str) -> None:
    make_wheel(world.wheels, "acme-policies", "1.4.0", package_files(), entry_points=entry_points)
    world.choose(f"name: quota, {chosen}")
    assert expected in world.report()


def test_a_file_that_is_no_wheel(world: World) -> None:
    world.locked("lib", "1.0").write_text("no zip")
    world.lock.write_text(world.lock.read_text().splitlines()[0] + "\n" + world.lock.read_text().splitlines()[1] + "\n")
    with (world.lock).open("a") as lock:
        lock.write(f"lib==1.0 --hash={sha256(world.wheels / 'lib-1.0-py3-none-any.whl')}\n")
    world.policy("one", requirements="lib==1.0\n")
    assert "lib-1.0-py3-none-any.whl: is not a wheel: File is not a zip file" in world.report()


def test_wheels_are_fetched_by_hash_and_kept(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    index = tmp_path / "index"
    wheel = make_wheel(index, "lib", "1.0")
    world.policy("one", requirements=f"lib==1.0 --hash={sha256(wheel)}\n")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    plan, report = world.validate()
    assert plan is not None, report.render_text()
    wheel.unlink()
    plan, _ = world.validate()
    assert plan is not None


def test_a_download_without_the_pinned_hash_is_refused_by_name(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_wheel(tmp_path / "index", "lib", "1.0")
    good = make_wheel(tmp_path / "index", "good", "1.0")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    world.policy("one", requirements=f"good==1.0 --hash={sha256(good)}\nlib==1.0 --hash=sha256:{'0' * 64}\n")
    report = world.report()
    assert "requirements.txt:2:1: what the registry serves as lib==1.0 has none of the pinned hashes" in report
    assert "good" not in report


def test_a_version_that_no_registry_has(world: World) -> None:
    world.policy("one", requirements=f"lib==9.9 --hash=sha256:{'0' * 64}\n")
    assert "requirements.txt:1:1: no registry has a wheel of lib==9.9 for linux/amd64 and Python 3.13" in world.report()


def test_a_wheel_for_another_machine_does_not_count(world: World) -> None:
    wheel = make_wheel(world.wheels, "lib", "1.0", tag="cp313-cp313-win_amd64")
    world.policy("one", requirements=f"lib==1.0 --hash={sha256(wheel)}\n")
    assert "no registry has a wheel of lib==1.0 for linux/amd64" in world.report()


def test_an_unreachable_registry_is_not_the_policys_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    world.policy("one", requirements=f"lib==9.9 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(FetchError, match=r"could not download lib==9\.9"):
        world.validate()


def test_reports_do_not_depend_on_the_order_of_checks() -> None:
    assert Report().render_text() == "0 errors\n"
    assert not Report().failed


MISTAKE = "import nowhere\n" + CODE.replace("on_request_headers", "on_request_header")
FOUND = ("did you mean 'on_request_headers'?", "lib is not pinned")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("name: one, version: v1.0.0", "policy one v1.0.0 is chosen twice; first as entry 1"),
        ("name: one, version: v1.0.0, path: twin", "policy one v1.0.0 is chosen twice"),
        ("name: twin, version: v1, path: twin", 'is not an exact version (got "v1")'),
        ("name: twin, version: latest", 'is not an exact version (got "latest")'),
        ("version: v1.0.0, path: twin", "lacks the required key 'name'"),
        ("name: twin, path: twin", "lacks the required key 'version'"),
        ("name: twin, version: v1.0.0, package: x>=1", "is not pinned to one version"),
        ("name: twin, version: v1.0.0, pth: twin", "'pth' is not a key of a chosen policy"),
        ("name: twin, version: v1.0.0, path: twin, package: x==1", "from a path or from a package, not from both"),
    ],
)
def test_a_wrong_entry_of_the_manifest_hides_nothing(world: World, entry: str, expected: str) -> None:
    world.policy("one", code=MISTAKE, requirements="lib>=1\n")
    world.choose(entry)
    twin = world.policy("other", code=MISTAKE, requirements="lib>=1\n")
    shutil.copytree(twin, world.root / "twin")
    report = world.report()
    assert expected in report
    places = ["policies/one/v1_0_0", "policies/other/v1_0_0"] + (
        ["twin"] if "path: twin" in entry and "package" not in entry else []
    )
    for place in places:
        for finding in FOUND:
            assert any(f"{place}/" in line and finding in line for line in report.splitlines()), (place, report)
    assert "imports nowhere" in report


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("repository: Wrong/Name\n", "is not the name of an image"),
        ("libraries: [none]\n", "is no directory beside the manifest"),
        ("configuration: [none.yaml]\n", "is no file beside the manifest"),
        ("more: 1\n", "'more' is not a key of a manifest of policies"),
    ],
)
def test_a_wrong_setting_of_the_manifest_hides_nothing(world: World, settings: str, expected: str) -> None:
    world.settings += settings
    world.policy("one", code=MISTAKE, requirements="lib>=1\n")
    report = world.report()
    for finding in (expected, *FOUND):
        assert finding in report


def test_a_registry_that_cannot_be_asked_hides_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise FetchError("pip could not download")

    monkeypatch.setattr("policy_builder.discover.wheels.WheelStore.fetch", unreachable)
    world.policy("one", code=MISTAKE, requirements="lib>=1\n")
    report = Report()
    with pytest.raises(FetchError):
        validate(world.manifest, world.workspace(), Platform(), report)
    for finding in FOUND:
        assert finding in report.render_text()
