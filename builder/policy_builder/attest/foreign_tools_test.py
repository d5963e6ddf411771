"""What others' tools say of an image that was signed here: cosign, crane, syft. On demand, since they are built first.

    go install github.com/google/go-containerregistry/cmd/crane@latest
    go install github.com/sigstore/cosign/v2/cmd/cosign@latest
    go install github.com/anchore/syft/cmd/syft@latest

COSIGN, CRANE and SYFT name the programs; a test without its program is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from policy_builder.attest.keys import KeySigner
from policy_builder.commands import cli
from policy_builder.package.image import layer_digests
from policy_builder.testregistry import PASSWORD, USER, Registry, debian_registry, log_in
from policy_builder.testworld import World

_SECONDS = 300


def program(name: str) -> str:
    found = os.environ.get(name)
    if not found:
        pytest.skip(f"{name} names no program")
    return found


@pytest.fixture
def registry(tmp_path: Path, no_logins: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    with debian_registry(tmp_path, password=True, tls=True) as running:
        log_in(no_logins, running.address, f"{USER}:{PASSWORD}")
        monkeypatch.setenv("SSL_CERT_FILE", str(running.ca))
        monkeypatch.setenv("COSIGN_PASSWORD", "pa ss")
        yield running


@pytest.fixture
def image(world: World, tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]) -> str:
    """Build and push an image, signed with a key that cosign made, where there is a cosign; return its reference."""
    world.policy("one")
    world.build(tmp_path / "out")
    options = ["push", str(tmp_path / "out"), "-r", f"{registry.address}/team/engine", "--ca", str(registry.ca)]
    if os.environ.get("COSIGN"):
        run(program("COSIGN"), "generate-key-pair", directory=tmp_path)
        options += ["--key", str(tmp_path / "cosign.key")]
    capsys.readouterr()
    assert cli.main(options) == 0
    return capsys.readouterr().out.split()[0]


def run(*command: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS, cwd=directory)
    assert done.returncode == 0, done.stderr
    return done


def test_cosign_accepts_signature_provenance_and_sbom(image: str, tmp_path: Path) -> None:
    cosign = program("COSIGN")
    key = ("--key", str(tmp_path / "cosign.pub"), "--insecure-ignore-tlog=true")
    (found,) = json.loads(run(cosign, "verify", *key, image).stdout)
    assert found["critical"]["image"]["docker-manifest-digest"] == image.partition("@")[2]
    for kind in ("slsaprovenance1", "cyclonedx"):
        assert json.loads(run(cosign, "verify-attestation", *key, "--type", kind, image).stdout)["payload"]
    other = tmp_path / "other"
    other.mkdir()
    run(cosign, "generate-key-pair", directory=other)
    refused = subprocess.run(
        [cosign, "verify", "--key", str(other / "cosign.pub"), "--insecure-ignore-tlog=true", image],
        capture_output=True,
        check=False,
        timeout=_SECONDS,
    )
    assert refused.returncode != 0


def test_what_cosign_signs_is_verified_here(
    image: str, tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    cosign = program("COSIGN")
    other = tmp_path / "other"
    other.mkdir()
    run(cosign, "generate-key-pair", directory=other)
    assert KeySigner(other / "cosign.key")
    run(cosign, "sign", "--key", str(other / "cosign.key"), "--tlog-upload=false", "--yes", image)
    capsys.readouterr()
    cli.main(["verify", image, "--key", str(other / "cosign.pub"), "--ca", str(registry.ca), "--json"])
    report = json.loads(capsys.readouterr().out)["images"][0]
    assert "signed by the given key" in report["facts"]
    # The first signature is still there.
    run(cosign, "verify", "--key", str(tmp_path / "cosign.pub"), "--insecure-ignore-tlog=true", image)


def test_crane_finds_the_image_valid(image: str, tmp_path: Path) -> None:
    crane = program("CRANE")
    run(crane, "validate", "--remote", image)
    manifest = json.loads(run(crane, "manifest", image).stdout)
    assert [layer["digest"] for layer in manifest["layers"]] == list(layer_digests(tmp_path / "out/oci"))


def test_syft_finds_debian_and_its_packages(image: str) -> None:
    listed = json.loads(run(program("SYFT"), "scan", f"registry:{image}", "--output", "syft-json").stdout)
    assert (listed["distro"]["id"], listed["distro"]["versionID"]) == ("debian", "13")
    kinds: dict[str, set[str]] = {}
    for one in listed["artifacts"]:
        kinds.setdefault(one["type"], set()).add(one["name"])
    assert {"libone", "libtwo", "python3.13-minimal"} <= kinds["deb"]
    assert {"engine-core", "policy-engine"} <= kinds["python"]
