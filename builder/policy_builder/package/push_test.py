"""Pushing: to a real registry (Debian's docker-registry), and against servers that misbehave."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policy_builder.commands import oci_tool
from policy_builder.package.oci_layout import write_index
from policy_builder.package.push import PushError, push
from policy_builder.testregistry import PASSWORD, USER, Server, debian_registry, layout, log_in


@pytest.fixture(params=[False])
def registry(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Run Debian's docker-registry, where the parameter says so one that asks for USER and PASSWORD; give HOST:PORT."""
    with debian_registry(tmp_path, password=request.param) as running:
        yield running.address


def fetch(registry: str, path: str, accept: str = "*/*") -> bytes:
    request = urllib.request.Request(f"http://{registry}/v2/{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30) as response:
        return bytes(response.read())


def test_pushing_twice_uploads_nothing_new(registry: str, tmp_path: Path) -> None:
    image = layout(tmp_path / "one", b"base", b"policy")
    first = push(image, f"{registry}/team/engine", ["v1", "latest"])
    assert (first.uploaded, first.present) == (4, 0)
    second = push(image, f"{registry}/team/engine", ["v1", "latest"])
    assert (second.uploaded, second.present, second.digest) == (0, 4, first.digest)
    assert json.loads(fetch(registry, "team/engine/tags/list"))["tags"] == ["latest", "v1"]


def test_a_changed_policy_uploads_its_layer_configuration_and_manifest(registry: str, tmp_path: Path) -> None:
    push(layout(tmp_path / "one", b"base", b"policy"), f"{registry}/engine", ["v1"])
    changed = push(layout(tmp_path / "two", b"base", b"policy changed"), f"{registry}/engine", ["v1"])
    assert (changed.uploaded, changed.present) == (3, 1)
    manifest = fetch(registry, "engine/manifests/v1", "application/vnd.oci.image.manifest.v1+json")
    digest = json.loads(manifest)["layers"][1]["digest"]
    assert fetch(registry, f"engine/blobs/{digest}") == b"policy changed"


def test_an_index_is_pushed_with_the_images_of_all_its_platforms(registry: str, tmp_path: Path) -> None:
    images = [layout(tmp_path / name, b"base", name.encode(), architecture=name) for name in ("arm64", "amd64")]
    write_index(tmp_path / "index", images)
    pushed = push(tmp_path / "index", f"{registry}/engine", ["v1"])
    index = json.loads(fetch(registry, "engine/manifests/v1", "application/vnd.oci.image.index.v1+json"))
    assert [one["platform"]["architecture"] for one in index["manifests"]] == ["amd64", "arm64"]
    assert pushed.uploaded == 8  # one base layer, and for each platform layer, configuration, manifest; the index
    assert push(tmp_path / "index", f"{registry}/engine", ["v1"]).uploaded == 0


def test_the_command_of_the_bazel_rules(registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = layout(tmp_path / "one", b"base")
    (tmp_path / "tags.txt").write_text("from-file\n")
    arguments = ["push", str(image), "--repository", f"{registry}/engine", "--tag", "v1"]
    oci_tool.main([*arguments, "--tags-file", str(tmp_path / "tags.txt")])
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{registry}/engine@sha256:")
    assert captured.out.endswith(" v1 from-file\n")
    assert captured.err == "3 uploaded, 0 already there\n"


WITH_PASSWORD = pytest.mark.parametrize("registry", [True], indirect=True)


@WITH_PASSWORD
@pytest.mark.parametrize("key", ["{}", "https://{}/v1/", "{}/v1/", "https://{}/v2/", "{}/team"])
def test_a_registry_that_asks_for_a_password(registry: str, no_logins: Path, key: str) -> None:
    image = layout(no_logins / "one", b"base")
    with pytest.raises(PushError, match=f"401 Unauthorized; run `docker login {registry}`"):
        push(image, f"{registry}/team/engine")
    log_in(no_logins, key.format(registry), f"{USER}:{PASSWORD}")
    assert push(image, f"{registry}/team/engine", ["v1"]).uploaded == 3


@WITH_PASSWORD
def test_a_wrong_password_is_refused_and_not_shown(registry: str, no_logins: Path) -> None:
    log_in(no_logins, registry, f"{USER}:wrong-{PASSWORD}")
    with pytest.raises(PushError, match="401") as caught:
        push(layout(no_logins / "one", b"base"), f"{registry}/team/engine")
    assert PASSWORD not in str(caught.value)


def test_credentials_go_to_the_registry_and_not_where_it_points(misbehaving: Server, tmp_path: Path) -> None:
    log_in(tmp_path, misbehaving.address)
    elsewhere = misbehaving.address.replace("127.0.0.1", "localhost")
    misbehaving.answers = {
        ("POST", "uploads"): (202, {"Location": f"http://{elsewhere}/elsewhere/x?a=b"}, b""),
        ("PUT", ""): (201, {}, b""),
        ("HEAD", "layers"): (307, {"Location": f"http://{elsewhere}/elsewhere"}, b""),
    }
    push(layout(tmp_path / "one", b"base"), f"{misbehaving.address}/engine")
    to_registry = {authorization for _, path, authorization in misbehaving.seen if path.startswith("/v2/")}
    to_others = {authorization for _, path, authorization in misbehaving.seen if path.startswith("/elsewhere")}
    assert to_registry == {"Basic dXNlcjpwYXNz"}
    assert to_others == {None}


def test_a_token_is_fetched_where_the_registry_says(misbehaving: Server, tmp_path: Path) -> None:
    log_in(tmp_path, misbehaving.address)
    realm = f'Bearer realm="http://{misbehaving.address}/token",service="s",scope="repository:engine:push"'
    misbehaving.answers = {
        ("GET", "/token"): (200, {}, b'{"token": "abc"}'),
        ("HEAD", ""): (401, {"WWW-Authenticate": realm}, b""),
    }
    with pytest.raises(PushError, match="401"):
        push(layout(tmp_path / "one", b"base"), f"{misbehaving.address}/engine")
    assert ("GET", "/token", "Basic dXNlcjpwYXNz") in misbehaving.seen
    assert misbehaving.seen[-1][2] == "Bearer abc"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({("HEAD", ""): (401, {}, b"")}, r"401.*; run `docker login 127\.0\.0\.1:\d+`"),
        ({("POST", ""): (403, {}, b"no room")}, "403.*docker login.*: no room"),
        ({("POST", ""): (202, {}, b"")}, "without saying where to"),
        ({("POST", ""): (202, {"Location": "file:///etc/passwd"}, b"")}, "neither http nor https"),
        ({("HEAD", ""): (500, {}, b"")}, "500"),
        ({("HEAD", ""): (401, {"WWW-Authenticate": 'Bearer realm="ftp://x/t"'}, b"")}, "which is not https"),
        ({("HEAD", ""): (401, {"WWW-Authenticate": "Bearer x"}, b"")}, "which is not https"),
    ],
)
def test_refusals_say_what_to_do(misbehaving: Server, tmp_path: Path, answers: dict[Any, Any], expected: str) -> None:
    misbehaving.answers = answers
    with pytest.raises(PushError, match=expected):
        push(layout(tmp_path / "one", b"base"), f"{misbehaving.address}/engine")


def test_a_token_that_is_not_given(misbehaving: Server, tmp_path: Path) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{misbehaving.address}/token"'}
    answers: list[tuple[int, dict[str, str], bytes]] = [(404, {}, b""), (200, {}, b"[]"), (200, {}, b"no json")]
    for answer in answers:
        misbehaving.answers = {("GET", "/token"): answer, ("HEAD", ""): (401, challenge, b"")}
        with pytest.raises(PushError, match="no token for"):
            push(layout(tmp_path / f"{len(misbehaving.seen)}", b"base"), f"{misbehaving.address}/engine")


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(PushError, match=r"127\.0\.0\.1:9 cannot be reached"):
        push(layout(tmp_path / "one", b"base"), "127.0.0.1:9/engine")


@pytest.mark.parametrize("repository", ["engine", "", "http://x/engine", "x/Engine", "x/", "x/../y", "a b/c"])
def test_what_is_no_repository(tmp_path: Path, repository: str) -> None:
    with pytest.raises(PushError, match="write HOST/NAME"):
        push(layout(tmp_path / "one", b"base"), repository)


@pytest.mark.parametrize("tag", ["", "-x", "a/b", "a b", "x" * 129])
def test_what_is_no_tag(tmp_path: Path, tag: str) -> None:
    with pytest.raises(PushError, match="is not a tag"):
        push(layout(tmp_path / "one", b"base"), "127.0.0.1:9/engine", [tag])
