"""What runs is held against what was reviewed: every way in which code on disk can be another, and what is the same."""

from __future__ import annotations

import hashlib
import json
import py_compile
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

import policy_engine
from policy_engine.worker.policies.integrity import directory_digest, verify
from policy_engine.worker.policies.loader import PoliciesUnusable, load_policies
from testsupport.policy_directories import CODE, write_policy

UNCHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH
CHECKED = py_compile.PycInvalidationMode.CHECKED_HASH
ENGINE = Path(policy_engine.__file__).parent


def registry_of(root: Path, *, engine: str | None = None) -> Path:
    """Write what the builder writes about the policy in `root`, as it is now; return the registry."""
    entry = {
        "name": "tested",
        "version": "v1.0.0",
        "entrypoint": "policy:Tested",
        "directory": "tested/v1_0_0",
        "digest": directory_digest(root / "tested/v1_0_0"),
    }
    (root / "registry.json").write_text(json.dumps([entry]))
    described = {"engine": {"digest": engine or directory_digest(ENGINE, "policy_engine/")}, "libraries": []}
    (root / "build-info.json").write_text(json.dumps(described))
    return root / "registry.json"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Write a policy with a module of its own and the registry of both; return its directory."""
    directory = write_policy(tmp_path, code=CODE + "\nfrom .rules import VALUE\n")
    (directory / "rules.py").write_text("VALUE = 1\n")
    registry_of(tmp_path)
    return directory


def found(policy: Path) -> tuple[str, ...]:
    return verify(policy.parents[1] / "registry.json", engine=False).findings


def compiled(source: Path, code: str, mode: py_compile.PycInvalidationMode = UNCHECKED) -> Path:
    """Write the bytecode of `code` where Python looks for that of `source`."""
    other = source.with_name("other.py")
    other.write_text(code)
    written = py_compile.compile(str(other), invalidation_mode=mode, doraise=True)
    assert written is not None
    other.unlink()
    return Path(written).rename(Path(written).with_name(Path(written).name.replace("other", source.stem)))


def append(policy: Path) -> None:
    with (policy / "policy.py").open("ab") as file:
        file.write(b"#")


def linked_package(policy: Path) -> None:
    elsewhere = policy.parents[1] / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "__init__.py").write_text("VALUE = 2\n")
    (policy / "rules").symlink_to(elsewhere)  # a package goes before the module rules.py


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one byte more": (append, "its files have sha256:"),
    "a file more": (lambda policy: (policy / "more.txt").write_text(""), "its files have sha256:"),
    "a file less": (lambda policy: (policy / "rules.py").unlink(), "its files have sha256:"),
    "another name": (lambda policy: (policy / "rules.py").rename(policy / "rule.py"), "its files have sha256:"),
    "the manifest": (lambda policy: (policy / "policy.yaml").write_text(""), "its files have sha256:"),
    "compiled code": (lambda policy: (policy / "rules.abi3.so").write_bytes(b"\x7fELF"), "its files have sha256:"),
    "a link to a package": (linked_package, "its files have sha256:"),
    "bytecode of other code": (
        lambda policy: compiled(policy / "rules.py", "VALUE = 2\n"),
        r"has bytecode that was not reviewed: __pycache__/rules.*pyc, which does not come from rules.py",
    ),
    "bytecode that is cut": (
        lambda policy: (path := compiled(policy / "rules.py", "VALUE = 1\n")).write_bytes(path.read_bytes()[:-9]),
        "rules.py",
    ),
    "bytecode with more behind it": (
        lambda policy: (path := compiled(policy / "rules.py", "VALUE = 1\n")).write_bytes(path.read_bytes() + b"x"),
        "rules.py",
    ),
    "bytecode without source": (
        lambda policy: compiled(policy / "extra.py", "VALUE = 2\n").rename(policy / "extra.pyc"),
        "has bytecode that was not reviewed: extra.pyc, which has no source beside it",
    ),
    "the directory is gone": (lambda policy: policy.rename(policy.with_name("gone")), "is not there"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_code_that_is_not_what_was_reviewed(policy: Path, change: str) -> None:
    assert found(policy) == ()
    apply, reason = CHANGES[change]
    apply(policy)
    (finding,) = found(policy)
    assert finding.startswith("policy tested v1.0.0 ")
    assert re.search(reason, finding), finding


@pytest.mark.parametrize(
    "apply",
    [
        lambda policy: (policy / "policy.py").touch(),
        lambda policy: (policy / "policy.py").chmod(0o600),
        lambda policy: py_compile.compile(str(policy / "rules.py"), invalidation_mode=UNCHECKED),
        lambda policy: py_compile.compile(str(policy / "rules.py")),
        lambda policy: compiled(policy / "rules.py", "VALUE = 2\n", CHECKED),  # Python sees that it is another's
        lambda policy: compiled(policy / "rules.py", "VALUE = 12\n", py_compile.PycInvalidationMode.TIMESTAMP),
        lambda policy: (policy / "__pycache__").mkdir() or (policy / "__pycache__/rules.cpython-12.pyc").write_text(""),
    ],
)
def test_what_changes_nothing_that_runs(policy: Path, apply: Callable[[Path], object]) -> None:
    apply(policy)
    assert found(policy) == ()


def test_the_engine_and_libraries_are_compared_as_the_builder_described_them(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = policy.parents[1] / "registry.json"
    # Not the engine's own directory: bytecode of other runs may lie there. `reviewed_code_test` verifies a copy of it.
    site = tmp_path / "site"
    for name in ("policy_engine", "shared"):
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text(f"NAME = {name!r}\n")
    monkeypatch.setattr(policy_engine, "__file__", str(site / "policy_engine/__init__.py"))
    parts = {part.kind: part for part in verify(registry).parts}
    assert "engine is not what was reviewed" in " ".join(parts["engine"].findings())
    document = {
        name: {"name": name, "digest": directory_digest(site / name, f"{name}/")}
        for name in ("policy_engine", "shared")
    }
    (registry.parent / "build-info.json").write_text(
        json.dumps({"engine": document["policy_engine"], "libraries": [document["shared"]]})
    )
    assert (verify(registry).state, verify(registry).findings) == ("verified", ())
    (site / "shared/__init__.py").write_text("NAME = 'other'\n")
    compiled(site / "policy_engine/__init__.py", "NAME = 'evil'\n")
    found = verify(registry).findings
    assert [one.partition(" is ")[0].partition(" has ")[0] for one in found] == ["library shared", "engine"]


def test_strict_imports_nothing_that_was_not_reviewed(policy: Path) -> None:
    registry = policy.parents[1] / "registry.json"
    assert found(policy) == ()
    mark = policy.parents[1] / "imported"
    (policy / "policy.py").write_text(f"open({str(mark)!r}, 'w')\n{CODE}")
    with pytest.raises(PoliciesUnusable, match=r"policy tested v1.0.0 is not what was reviewed.*verify: report"):
        load_policies(registry, strict=True, engine=False)
    assert not mark.exists()
    assert len(load_policies(registry)) == 1
    assert mark.exists()


def test_strict_refuses_what_nothing_describes(policy: Path) -> None:
    root = policy.parents[1]
    with pytest.raises(PoliciesUnusable, match="is a directory of policies that no registry describes"):
        load_policies(root, strict=True)
    (root / "build-info.json").unlink()
    with pytest.raises(PoliciesUnusable, match=r"has no build-info\.json to hold the engine against"):
        load_policies(root / "registry.json", strict=True)


def test_the_digest_is_of_names_and_contents_alone(tmp_path: Path) -> None:
    directory = write_policy(tmp_path / ".pytest_cache")  # a cache above it is none of its own
    digest = directory_digest(directory)
    names = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in ("policy.py", "policy.yaml")}
    text = "".join(f"{name}\0{names[name]}\n" for name in sorted(names, key=PurePosixPath))
    assert digest == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    (directory / "policy.py").touch()
    (directory / "__pycache__").mkdir()
    (directory / "__pycache__" / "x.pyc").write_text("x")
    assert directory_digest(directory) == digest
    (directory / "policy.py").rename(directory / "code.py")
    assert directory_digest(directory) != digest
