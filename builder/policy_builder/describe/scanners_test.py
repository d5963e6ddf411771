"""What scanners find in an image: the system, its packages with their sources, what wheels bring, who made it all."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from packageurl import PackageURL

from policy_builder.describe.debian_licences import licences_in, spdx_id
from policy_builder.describe.nested_sboms import nested_components
from policy_builder.describe.purls import debian_purl
from policy_builder.discover.debian import DebianLock, DebianPackage
from policy_builder.discover.distributions import read_distribution
from policy_builder.package.image import layer_digests
from policy_builder.package.oci_layout import blob_path
from policy_builder.testworld import CODE, World, manifest_of

SBOM = {
    "bomFormat": "CycloneDX",
    "components": [
        {"name": "rust-crate", "version": "1.2.3", "purl": "pkg:cargo/rust-crate@1.2.3"},
        {"name": "rust-crate", "version": "1.2.3", "purl": "pkg:cargo/rust-crate@1.2.3"},
        {"name": "itself", "purl": "pkg:pypi/bound@2.0"},
        {"name": "odd", "purl": "no purl"},
        "nothing",
    ],
}


def content(out: Path) -> dict[str, bytes]:
    """Return the regular files of an image by path."""
    found: dict[str, bytes] = {}
    for digest in layer_digests(out / "oci"):
        with tarfile.open(blob_path(out / "oci", digest)) as tar:
            found |= {one.name: tar.extractfile(one).read() for one in tar if one.isreg()}  # type: ignore[union-attr] # it is a file
    return found


def components(out: Path) -> dict[str, dict[str, Any]]:
    return {one["bom-ref"]: one for one in json.loads((out / "sbom.cdx.json").read_text())["components"]}


@pytest.mark.parametrize(
    ("source", "upstream"), [("", None), ("glibc", "glibc"), ("gcc-14 (14.2.0-19)", "gcc-14@14.2.0-19")]
)
def test_a_package_is_named_with_its_source(source: str, upstream: str | None) -> None:
    package = DebianPackage("libx", "1:2-3", "pool/libx_2-3_amd64.deb", "0" * 64, source=source)
    purl = PackageURL.from_string(debian_purl(package, DebianLock("trixie", "", (package,))))
    assert (purl.type, purl.namespace, purl.version) == ("deb", "debian", "1:2-3")
    expected = {"arch": "amd64", "distro": "debian-13"} | ({"upstream": upstream} if upstream else {})
    assert purl.qualifiers == expected


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            "Format: x\n\nFiles: *\nLicense: GPL-2+ or Expat\n text\n\nLicense: BSD-3-clause\n",
            ["BSD-3-clause", "Expat", "GPL-2+"],
        ),
        ("see /usr/share/common-licenses/LGPL-2.1. and /usr/share/common-licenses/GPL-3", ["GPL-3", "LGPL-2.1"]),
        ("License: whoever reads prose and not a form\n", []),
        ("", []),
    ],
)
def test_licences_of_debian_packages(text: str, names: list[str]) -> None:
    assert licences_in(text) == names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GPL-2+", "GPL-2.0-or-later"),
        ("LGPL-2.1", "LGPL-2.1-only"),
        ("Expat", "MIT"),
        ("bsd-3-clause", "BSD-3-Clause"),
        ("ad-hoc", None),
    ],
)
def test_licences_as_spdx_names_them(name: str, expected: str | None) -> None:
    assert spdx_id(name) == expected


def test_the_image_says_what_system_it_is_and_what_it_holds(world: World, tmp_path: Path) -> None:
    world.policy("one")
    world.build(tmp_path / "out")
    files, listed = content(tmp_path / "out"), components(tmp_path / "out")
    assert files["var/lib/dpkg/status.d/libone"] == (
        b"Package: libone\nVersion: 1.0\nArchitecture: all\nMaintainer: A Team <team@example.test>\n"
    )
    assert b"  usr/lib/libone.so\n" in files["var/lib/dpkg/status.d/libone.md5sums"]
    assert listed["os:debian@13"]["type"] == "operating-system"
    assert all(one["supplier"]["name"] for one in listed.values())
    site = "usr/local/lib/python3.13/dist-packages/policy_engine-0.9.0.dist-info"
    assert b"Name: policy-engine\nVersion: 0.9.0\n" in files[f"{site}/METADATA"]
    assert files[f"{site}/licenses/LICENSE"] == b"The licence.\n"
    assert b"policy_engine/__init__.py,sha256=" in files[f"{site}/RECORD"]
    document = json.loads((tmp_path / "out/sbom.cdx.json").read_text())
    assert document["metadata"]["authors"] == [{"name": "policy-builder"}]


def test_what_is_compiled_into_a_wheel_is_listed_below_it(world: World, tmp_path: Path) -> None:
    files = {"bound/__init__.py": "", "bound-2.0.dist-info/sboms/bound.cyclonedx.json": json.dumps(SBOM)}
    world.locked("bound", "2.0", files=files)
    world.policy("one", requirements="bound==2.0\n", code="import bound\n" + CODE)
    world.build(tmp_path / "out")
    nested = components(tmp_path / "out")["pkg:pypi/bound@2.0"]["components"]
    assert [(one["name"], one["version"], one["purl"]) for one in nested] == [
        ("rust-crate", "1.2.3", "pkg:cargo/rust-crate@1.2.3")
    ]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"bomFormat": "CycloneDX"}', '{"bomFormat": "CycloneDX", "components": 3}', '"' * 9]
)
def test_an_sbom_of_a_stranger_that_is_none_is_passed_over(tmp_path: Path, text: str) -> None:
    files = {"x-1.dist-info/METADATA": "Name: x\nVersion: 1\n", "x-1.dist-info/sboms/a.json": text}
    paths = {}
    for name, content_of_file in files.items():
        paths[name] = tmp_path / name
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        paths[name].write_text(content_of_file)
    assert nested_components(read_distribution(paths), "pkg:pypi/x@1") == []


def test_a_policy_from_a_wheel_has_its_wheel_everywhere(world: World, tmp_path: Path) -> None:
    manifest = "name: quota\nversion: v1.0.0\ndescription: d\nentrypoint: policy:Example\nphases: [request_headers]\n"
    files = {
        "acme/quota/policy.yaml": manifest + "parameters: {type: object}\n",
        "acme/quota/policy.py": CODE,
        "acme/quota/README.md": "x",
        "acme/__init__.py": "",
    }
    wheel = world.locked(
        "acme-policies",
        "1.4.0",
        files=files,
        licence="BSD-2-Clause",
        entry_points="[policy_engine.policies]\nquota = acme.quota\n",
    )
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    world.choose("name: quota, version: v1.0.0, package: acme-policies==1.4.0")
    world.build(tmp_path / "out")
    (described,) = json.loads((tmp_path / "out/build-info.json").read_text())["policies"]
    assert described["package"] == {
        "name": "acme-policies", "version": "1.4.0", "licence": "BSD-2-Clause", "wheel": f"sha256:{digest}",
    }  # fmt: skip
    component = components(tmp_path / "out")["policy:quota@v1.0.0"]
    assert component["licenses"] == [{"expression": "BSD-2-Clause"}]
    properties = {one["name"]: one["value"] for one in component["properties"]}
    assert properties["policy-engine:wheel"] == "acme-policies==1.4.0"
    assert properties["policy-engine:wheel-sha256"] == digest
    assert "acme-policies (quota v1.0.0)" in (tmp_path / "out/licences.txt").read_text()
    layout = tmp_path / "out/oci"
    config = json.loads(blob_path(layout, manifest_of(layout)["config"]["digest"]).read_bytes())["config"]
    assert config["Labels"]["policy-engine.package.quota.v1.0.0"] == "acme-policies==1.4.0"
