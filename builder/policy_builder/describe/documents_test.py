"""What is written about an image: SBOM, build information, licences; and the layouts they lie beside."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from policy_builder.discover.debian import DebianError, data_archives, read_lock
from policy_builder.discover.distributions import DistributionError, read_distribution
from policy_builder.package.image import layer_digests
from policy_builder.package.layers import LayerError, files
from policy_builder.package.oci_layout import ImageConfig, blob_path, write_docker_archive, write_image, write_index
from policy_builder.testworld import CODE, World

DEBIAN = ("libone", "libtwo", "python3.13-minimal")


@pytest.fixture
def built(world: World, tmp_path: Path) -> Path:
    world.locked("lib", "1.0", licence="Apache-2.0 OR MIT")
    world.locked("odd", "1.0", licence="Do What You Like")
    world.policy("one", requirements="lib==1.0\nodd==1.0\n", code="import lib\n" + CODE)
    world.policy("two")
    world.build(tmp_path / "out")
    return tmp_path / "out"


def test_the_sbom_is_valid_and_lists_every_part_with_who_needs_it(built: Path) -> None:
    text = (built / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    components = {one["bom-ref"]: one for one in document["components"]}
    assert set(components) == {
        "os:debian@13",
        *(f"pkg:deb/debian/{name}@1.0?arch=all&distro=debian-13" for name in DEBIAN),
        "pkg:pypi/engine-core@1.0",
        "pkg:pypi/lib@1.0",
        "pkg:pypi/odd@1.0",
        "policy:one@v1.0.0",
        "policy:two@v1.0.0",
    }
    assert components["pkg:pypi/lib@1.0"]["licenses"] == [{"expression": "Apache-2.0 OR MIT"}]
    assert components["pkg:pypi/odd@1.0"]["licenses"][0]["license"]["name"] == "Do What You Like"
    depends = {one["ref"]: one.get("dependsOn", []) for one in document["dependencies"]}
    assert depends["policy:one@v1.0.0"] == ["pkg:pypi/lib@1.0", "pkg:pypi/odd@1.0"]
    assert depends["policy:two@v1.0.0"] == []
    assert "pkg:pypi/lib@1.0" not in depends["engine"]
    assert "timestamp" not in document["metadata"]
    digest = json.loads((built / "registry.json").read_text())[0]["digest"]
    assert components["policy:one@v1.0.0"]["hashes"] == [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}]


def test_another_choice_has_another_serial_number(built: Path, world: World, tmp_path: Path) -> None:
    world.policy("three")
    world.build(tmp_path / "other")
    serials = [json.loads((one / "sbom.cdx.json").read_text())["serialNumber"] for one in (built, tmp_path / "other")]
    assert serials[0] != serials[1]


def test_build_information_says_who_needs_what(built: Path) -> None:
    document = json.loads((built / "build-info.json").read_text())
    assert document["engine"]["version"] == "0.9.0"
    assert [one["name"] for one in document["policies"]] == ["one", "two"]
    assert document["policies"][0]["requirements"] == ["lib==1.0", "odd==1.0"]
    needed = {one["name"]: one["required_by"] for one in document["dependencies"]}
    assert needed == {"engine-core": ["engine"], "lib": ["one v1.0.0"], "odd": ["one v1.0.0"]}
    assert document["debian"] == {"suite": "trixie", "packages": dict.fromkeys(DEBIAN, "1.0")}


def test_the_same_documents_are_in_the_image_and_beside_it(built: Path) -> None:
    last = layer_digests(built / "oci")[-1]
    with tarfile.open(blob_path(built / "oci", last)) as tar:
        inside = {one.name.rpartition("/")[2]: tar.extractfile(one) for one in tar if one.isfile()}
        assert {name: stream.read() for name, stream in inside.items() if stream} == {
            name: (built / name).read_bytes()
            for name in ("registry.json", "build-info.json", "sbom.cdx.json", "licences.txt")
        }


def test_licences_name_every_part(built: Path) -> None:
    rows = [line.split(maxsplit=2) for line in (built / "licences.txt").read_text().splitlines()]
    assert ["odd", "1.0", "Do What You Like"] in rows
    assert ["libone", "1.0", "/usr/share/doc/libone/copyright"] in rows
    assert ["policy-engine", "0.9.0", "Apache-2.0"] in rows


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT", "MIT"),
        ("License: BSD 3-Clause", "BSD 3-Clause"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License", "MIT License"),
        ("License: " + "long text " * 20, ""),
        ("Summary: none", ""),
    ],
)
def test_where_a_licence_is_read_from(tmp_path: Path, metadata: str, licence: str) -> None:
    path = tmp_path / "METADATA"
    path.write_text(f"Metadata-Version: 2.1\nName: x\nVersion: 1\n{metadata}\n\nLicense: in the description\n")
    assert read_distribution({"x-1.dist-info/METADATA": path}).licence == licence


def test_what_is_no_distribution(tmp_path: Path) -> None:
    with pytest.raises(DistributionError, match="has 0 files"):
        read_distribution({"x/__init__.py": tmp_path})
    path = tmp_path / "METADATA"
    path.write_text("Name: x\nVersion: 1\nRequires-Dist: !!\n")
    with pytest.raises(DistributionError, match="cannot be read"):
        read_distribution({"x-1.dist-info/METADATA": path})


def test_a_debian_package_with_another_content_is_refused(world: World) -> None:
    (world.root / "mirror/libone_1.0_all.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(DebianError, match=r"libone 1\.0 could not be had:(.|\n)*not the content that the lock has"):
        data_archives(read_lock(world.debian, "amd64"), world.root / "cache")


def test_a_debian_package_that_is_nowhere(world: World) -> None:
    (world.root / "mirror/libtwo_1.0_all.deb").unlink()
    with pytest.raises(DebianError, match=r"libtwo 1\.0 could not be had"):
        data_archives(read_lock(world.debian, "amd64"), world.root / "cache")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"suite": "x"}', '{"suite": 1, "snapshot": 1, "packages": {"amd64": {"a": {}}}}']
)
def test_a_file_that_is_no_lock_of_debian_packages(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock.json").write_text(text)
    with pytest.raises(DebianError, match="is not a lock of Debian packages"):
        read_lock(tmp_path / "lock.json", "amd64")


def test_two_contents_for_one_path_are_refused(tmp_path: Path) -> None:
    same = [{"path": "/a", "content": "x"}, {"path": "a", "content": "x"}]
    files(same).write(tmp_path / "layer.tar")
    with pytest.raises(LayerError, match="/a comes with different content from the build and from the build"):
        files([*same, {"path": "/a", "content": "y"}])


def test_a_docker_archive_holds_one_image(tmp_path: Path) -> None:
    tar = tmp_path / "layer.tar"
    tar.write_bytes(b"x")
    write_image(tmp_path / "one", [tar], ImageConfig("linux", "amd64"))
    write_index(tmp_path / "index", [tmp_path / "one"])
    with pytest.raises(ValueError, match="several platforms"):
        write_docker_archive(tmp_path / "index", tmp_path / "out.tar", [])
