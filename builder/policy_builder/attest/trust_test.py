"""From a build to a verdict: pushed to a registry with TLS and a password, signed, verified, refused after one byte."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from policy_builder.commands import cli
from policy_builder.package.oci_layout import LAYER_TYPES, blob_path, blobs, digest_of
from policy_builder.testregistry import PASSWORD, USER, Answer, Registry, Seen, Server, debian_registry, log_in
from policy_builder.testtampering import tampered
from policy_builder.testworld import CODE, World, manifest_of


@pytest.fixture
def registry(tmp_path: Path, no_logins: Path) -> Iterator[Registry]:
    with debian_registry(tmp_path, password=True, tls=True) as running:
        log_in(no_logins, running.address, f"{USER}:{PASSWORD}")
        yield running


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return new_keys(tmp_path, "signing")


@pytest.fixture
def built(world: World, tmp_path: Path) -> Path:
    world.locked("lib", "1.0", licence="MIT")
    world.policy("one", requirements="lib==1.0\n", code="import lib\n" + CODE)
    world.policy("two")
    world.build(tmp_path / "out")
    return tmp_path / "out"


def new_keys(directory: Path, name: str) -> tuple[Path, Path]:
    """Write a private and a public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = directory / f"{name}.key", directory / f"{name}.pub"
    encoding = serialization.Encoding.PEM
    private.write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def run(*arguments: object) -> int:
    return cli.main([str(one) for one in arguments])


def verdict(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    status = run("verify", "--json", *arguments)
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert status == (0 if document["verified"] else 1)
    return document


def findings(document: dict[str, Any]) -> str:
    return "\n".join(finding for image in document["images"] for finding in image["findings"])


def pushed(capsys: pytest.CaptureFixture[str], registry: Registry, out: Path, *options: object) -> str:
    """Push; return the reference of the image."""
    capsys.readouterr()
    assert run("push", out, "-r", f"{registry.address}/team/engine", "--ca", registry.ca, *options) == 0
    return capsys.readouterr().out.split()[0]


def test_what_was_built_signed_and_pushed_is_verified(
    built: Path, registry: Registry, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = keys
    image = pushed(
        capsys, registry, built, "--key", private, "--source", "https://u:p@git.test/a", "--revision", "1" * 40
    )
    found = verdict(
        capsys, image, "--key", public, "--ca", registry.ca, "--reviewed", built / "registry.json",
        "--source", f"https://git.test/a@{'1' * 40}", "--builder-id", "urn:policy-engine:policy-builder",
    )  # fmt: skip
    assert found["verified"], findings(found)
    assert found["images"][0]["facts"][1:] == [
        "signed by the given key",
        "SBOM signed by the given key, the same as in the image",
        f"built by urn:policy-engine:policy-builder of https://git.test/a@{'1' * 40}",
    ]
    # A second one adds its own signature and leaves the first.
    other_private, other_public = new_keys(public.parent, "other")
    assert run("sign", image, "--key", other_private, "--ca", registry.ca) == 0
    for key in (public, other_public):
        assert verdict(capsys, image, "--key", key, "--ca", registry.ca)["verified"]


def test_an_image_with_another_byte_in_a_policy_is_refused(
    built: Path, registry: Registry, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = keys
    pushed(capsys, registry, built, "--key", private)
    reviewed = built / "registry.json"
    tampered(built, "app/policies/one/v1.0.0/policy.py", b"#")
    # Pushed by somebody without the key, and then by somebody with it.
    image = pushed(capsys, registry, built)
    report = findings(verdict(capsys, image, "--key", public, "--ca", registry.ca, "--reviewed", reviewed))
    for expected in (
        "policy one v1.0.0 is not what the registry says",
        "by the given key; it has none",
        "no SBOM of this image is signed by the given key",
        "no provenance of this image is signed by the given key",
    ):
        assert expected in report
    assert run("sign", image, "--key", private, "--ca", registry.ca) == 0
    report = findings(verdict(capsys, image, "--key", public, "--ca", registry.ca))
    assert "policy one v1.0.0 is not what the registry says" in report
    assert "signed" not in report


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("usr/local/lib/python3.13/dist-packages/policy_engine/__init__.py", "the engine is not what build-info.json says"),
        ("usr/local/lib/python3.13/dist-packages/lib/__init__.py", "lib 1.0 is not what the SBOM says"),
        ("app/policies/one/v1.0.0/__pycache__/policy.cpython-313.pyc", "policy.cpython-313.pyc is bytecode that does not"),
        ("app/policies/build-info.json", "build-info.json is missing, or cannot be read"),
    ],
)  # fmt: skip
def test_whatever_is_changed_is_found_without_any_key(
    world: World, built: Path, capsys: pytest.CaptureFixture[str], path: str, reason: str
) -> None:
    options = (built, "--content-only", "--debian-lock", world.debian, "--cache", world.root / "cache")
    found = verdict(capsys, *options)
    assert found["verified"], findings(found)
    assert found["images"][0]["notes"] == []
    if path.endswith(".pyc") and sys.version_info[:2] != (3, 13):
        pytest.skip("images of tests have the Python that runs them")
    tampered(built, path, b"}#" if path.endswith(".json") else b"\0" if path.endswith(".pyc") else b"#")
    assert reason in findings(verdict(capsys, *options))


def test_a_policy_that_nobody_reviewed_is_refused(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digests = {one["name"]: one["digest"] for one in json.loads((built / "registry.json").read_text())}
    reviewed = tmp_path / "reviewed.txt"
    reviewed.write_text(f"# by the team\none v1.0.0 {digests['one']}\n\ntwo v1.0.0 sha256:{'0' * 64}  # old\n")
    report = findings(verdict(capsys, built, "--content-only", "--reviewed", reviewed))
    assert report == f"policy two v1.0.0 has {digests['two']}, the reviewed list has sha256:{'0' * 64}"
    reviewed.write_text(f"one v1.0.0 {digests['one']}\n")
    report = findings(verdict(capsys, built, "--content-only", "--reviewed", reviewed))
    assert report == "policy two v1.0.0 is not on the reviewed list"
    reviewed.write_text("one v1.0.0 whatever\n")
    assert run("verify", built, "--content-only", "--reviewed", reviewed) == 3
    assert "reviewed.txt:1: expected NAME VERSION sha256:DIGEST" in capsys.readouterr().err


def test_a_program_signs_in_place_of_a_key(
    built: Path, registry: Registry, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = keys
    program = tmp_path / "kms"
    program.write_text(f'#!/bin/sh\ntest "$1" = "a key" && openssl dgst -sha256 -sign {private} | base64 -w0\n')
    program.chmod(0o755)
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    image = pushed(capsys, registry, built, "--sign-command", f"{program} 'a key'")
    assert verdict(capsys, image, "--key", public, "--ca", registry.ca)["verified"]
    assert run("sign", image, "--ca", registry.ca, "--sign-command", f"{program} other") == 3
    assert "kms, which signs, failed with status 1" in capsys.readouterr().err


def test_what_is_signed_elsewhere_is_attached(
    built: Path, registry: Registry, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = keys
    image = pushed(capsys, registry, built)
    payload, signature = tmp_path / "payload.json", tmp_path / "payload.sig"
    assert run("sign", image, "--payload", payload, "--ca", registry.ca) == 0
    key = serialization.load_pem_private_key(private.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    from cryptography.hazmat.primitives import hashes

    signature.write_bytes(base64.b64encode(key.sign(payload.read_bytes(), ec.ECDSA(hashes.SHA256()))))
    certificate = tmp_path / "fulcio.pem"
    certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    options = ("--signature", signature, "--certificate", certificate)
    assert run("sign", image, *options, "--ca", registry.ca) == 0
    report = findings(verdict(capsys, image, "--key", public, "--ca", registry.ca))
    assert "no signature" not in report  # attestations are not there, which it says
    assert "no SBOM of this image is signed" in report


def test_an_image_is_found_by_what_refers_to_it_where_a_registry_lists_that(
    built: Path, registry: Registry, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Debian's registry lists no referrers, so the index under the tag of the digest has them."""
    image = pushed(capsys, registry, built, "--key", keys[0])
    from policy_builder.attest.referrers import fallback_tag, referrers
    from policy_builder.package.registry import Connection, Repository

    repository, _, digest = image.partition("@")
    opened = Repository(repository, Connection(ca=registry.ca), reading=True)
    answer = opened.call("GET", f"manifests/{fallback_tag(digest)}", accept="application/vnd.oci.image.index.v1+json")
    assert answer is not None
    listed = {one["artifactType"] for one in json.loads(answer.body)["manifests"]}
    assert listed == {
        "application/vnd.cyclonedx+json",
        "application/vnd.dev.cosign.artifact.att.v1+json",
        "application/vnd.dev.cosign.artifact.sig.v1+json",
    }
    assert {one["artifactType"] for one in referrers(opened, digest)} == listed


def listing_referrers(store: dict[str, bytes]) -> dict[tuple[str, str], Any]:
    """Return the answers of a registry of OCI 1.1 that keeps everything in `store`."""

    def answer(seen: Seen) -> Answer:
        path, _, query = seen.target.partition("?")
        if seen.method == "POST":
            return 202, {"Location": "/v2/team/engine/blobs/uploads/1"}, b""
        if seen.method == "PUT":
            key = query.partition("digest=")[2].replace("%3A", ":") or path.rpartition("/")[2]
            store[key] = seen.body
            if "/manifests/" not in path:
                return 201, {}, b""
            store[digest_of(seen.body)] = seen.body
            subject = json.loads(seen.body).get("subject")
            return 201, {"OCI-Subject": subject["digest"]} if subject else {}, b""
        wanted = path.rpartition("/")[2]
        if "/referrers/" in path:
            documents = {
                key: json.loads(one) for key, one in store.items() if one.startswith(b'{"') and key[:7] == "sha256:"
            }
            found = [
                {"digest": key, "artifactType": one["artifactType"]}
                for key, one in documents.items()
                if one.get("subject", {}).get("digest") == wanted
            ]
            return 200, {}, json.dumps({"manifests": found}).encode()
        if wanted not in store:
            return 404, {}, b""
        return 200, {"Docker-Content-Digest": digest_of(store[wanted])}, store[wanted]

    return {("*", "/v2/"): answer}


def test_a_registry_that_lists_referrers_gets_no_index_of_its_own(
    built: Path, misbehaving: Server, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = keys
    store: dict[str, bytes] = {}
    misbehaving.answers = listing_referrers(store)
    registry = Registry(misbehaving.address, None)
    capsys.readouterr()
    assert run("push", built, "-r", f"{registry.address}/team/engine", "--key", private) == 0
    image = capsys.readouterr().out.split()[0]
    tags = {key for key in store if key.startswith("sha256-")}
    digest = image.partition("@")[2].replace(":", "-")
    assert tags == {f"{digest}.att", f"{digest}.sig"}
    # Found by the list alone, too.
    for tag in tags:
        del store[tag]
    assert verdict(capsys, image, "--key", public)["verified"]


def test_the_difference_between_two_images(
    built: Path, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (world.root / "policies/one/v1_0_0/policy.py").write_text("import lib\n\n" + CODE)
    world.policy("three")
    world.build(tmp_path / "new")
    capsys.readouterr()
    assert run("diff", built, built) == 0
    assert capsys.readouterr().out == "no difference\n"
    assert run("diff", built, tmp_path / "new") == 1
    text = capsys.readouterr().out
    assert "~ policy one v1.0.0 sha256:" in text
    assert "    ~ policy.py\n" in text
    assert "+ policy three v1.0.0 sha256:" in text
    assert "policy two" not in text
    assert run("diff", "--json", tmp_path / "new", built) == 1
    assert {one["name"] for one in json.loads(capsys.readouterr().out)} == {"one v1.0.0", "three v1.0.0"}


def test_layers_are_compressed_the_same_everywhere_and_can_be_left_as_they_are(world: World, tmp_path: Path) -> None:
    world.policy("one")
    world.build(tmp_path / "one")
    world.build(tmp_path / "two")
    world.settings += "compression: none\n"
    world.policy("other")
    world.build(tmp_path / "plain")
    manifests = [manifest_of(tmp_path / name / "oci") for name in ("one", "two", "plain")]
    assert manifests[0] == manifests[1]
    assert {layer["mediaType"] for layer in manifests[0]["layers"]} == {LAYER_TYPES[1]}
    assert {layer["mediaType"] for layer in manifests[2]["layers"]} == {LAYER_TYPES[0]}
    layout = tmp_path / "one/oci"
    config = json.loads(blob_path(layout, manifests[0]["config"]["digest"]).read_bytes())
    for layer, plain in zip(manifests[0]["layers"], config["rootfs"]["diff_ids"], strict=True):
        content = blob_path(layout, layer["digest"]).read_bytes()
        assert "sha256:" + hashlib.sha256(gzip.decompress(content)).hexdigest() == plain
        assert content[4:8] == b"\0" * 4  # no time
    assert len(blobs(layout)) == len(manifests[0]["layers"]) + 2


def test_what_a_choice_says_of_its_image(
    world: World, tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    world.settings += (
        "tags: [v7, stable]\nlabels: {com.example.team: gateway}\nenv: {POLICY_ENGINE_WORKERS: '2'}\n"
        "annotations: {org.opencontainers.image.url: https://example.test}\n"
    )
    world.policy("one")
    world.build(tmp_path / "out")
    manifest = manifest_of(tmp_path / "out/oci")
    assert manifest["annotations"] == {"org.opencontainers.image.url": "https://example.test"}
    config = json.loads(blob_path(tmp_path / "out/oci", manifest["config"]["digest"]).read_bytes())["config"]
    assert config["Labels"]["com.example.team"] == "gateway"
    assert "POLICY_ENGINE_WORKERS=2" in config["Env"]
    pushed(capsys, registry, tmp_path / "out")
    assert verdict(capsys, f"{registry.address}/team/engine:v7", "--content-only", "--ca", registry.ca)["verified"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("tags: ['a b']", "/tags/0: is not a tag"),
        ("labels: {policy-engine.version: '9'}", "is what the image says of itself"),
        ("env: {PATH: /x}", "is what the image says of itself"),
        ("env: {'a b': x}", "is not the name of a variable"),
        ("labels: {a: 1}", "must be printable text"),
        ("annotations: [a]", "must be a mapping of text to text"),
        ("compression: zip", "/compression"),
    ],
)
def test_what_a_choice_cannot_say_of_its_image(world: World, settings: str, reason: str) -> None:
    world.settings += settings + "\n"
    world.policy("one")
    assert reason in world.report()


@pytest.mark.parametrize("image", ["nowhere", "host.test/name", "host.test/name@sha256:12", "host.test/name@latest"])
def test_what_names_no_image(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", image, "--content-only") == 3
    assert "sha256:" in capsys.readouterr().err
