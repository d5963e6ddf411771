"""Where logins are kept, under which names, and that nothing of them is ever shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from policy_builder.package.credentials import CredentialsError, Login, find_login
from policy_builder.testregistry import BASIC, PASSWORD, USER

HOST = "registry.example.test"
ENTRY = {"auth": BASIC}
LOGIN = Login(USER, PASSWORD)


def docker(directory: Path, **document: Any) -> None:
    (directory / "config.json").write_text(json.dumps(document))


def helper(directory: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> Path:
    """Put a credential helper on the PATH that notes what it is asked; return its notes."""
    program, asked = directory / "bin" / f"docker-credential-{name}", directory / "asked"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nread -r server\necho "$1 $server" >>{asked}\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return asked


def answer(user: str = USER, secret: str = PASSWORD) -> str:
    return f"echo '{json.dumps({'ServerURL': 'x', 'Username': user, 'Secret': secret})}'"


NOT_FOUND = "echo 'credentials not found in native keychain'; exit 1"


@pytest.mark.parametrize(
    "key",
    [
        HOST, f"https://{HOST}", f"https://{HOST}/", f"https://{HOST}/v1/", f"https://{HOST}/v2/", f"{HOST}/v1/", f"{HOST}/v2",
        f"{HOST}:443", f"https://{HOST}:443/v1/", "Registry.Example.Test", f"{HOST}/team", f"{HOST}/team/engine",
    ],
)  # fmt: skip
def test_spellings_of_a_registry(no_logins: Path, key: str) -> None:
    docker(no_logins, auths={key: ENTRY})
    assert find_login(HOST, "team/engine") == LOGIN
    assert find_login(f"{HOST}:443", "team/engine") == LOGIN


@pytest.mark.parametrize(
    "key",
    [
        f"{HOST}:5000", f"not{HOST}", f"{HOST}.evil.test", f"{HOST}/other", f"{HOST}/tea", f"{HOST}/team/engine/more",
        f"https://evil.test/{HOST}", f"http://{HOST}:443", "", "/", "https://", "docker.io",
    ],
)  # fmt: skip
def test_other_registries(no_logins: Path, key: str) -> None:
    docker(no_logins, auths={key: ENTRY})
    assert find_login(HOST, "team/engine") is None


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io"])
@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io", "docker.io/team"]
)
def test_docker_hub_has_many_names(no_logins: Path, host: str, key: str) -> None:
    docker(no_logins, auths={key: ENTRY})
    assert find_login(host, "team/engine") == LOGIN


def test_a_login_for_a_part_of_a_registry_goes_before_one_for_all_of_it(no_logins: Path) -> None:
    part = {"auth": base64.b64encode(b"team:x").decode()}
    docker(no_logins, auths={HOST: ENTRY, f"{HOST}/team": part, f"{HOST}/team/other": ENTRY})
    assert find_login(HOST, "team/engine") == Login("team", "x")
    assert find_login(HOST, "teams/engine") == LOGIN


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"auth": BASIC, "email": "x"}, LOGIN),
        ({"auth": base64.b64encode(b"user:a:b\0\0").decode()}, Login("user", "a:b")),
        ({"username": "u", "password": "p"}, Login("u", "p")),
        ({"identitytoken": "refresh", "auth": BASIC}, Login(identity_token="refresh")),
        ({"registrytoken": "bearer"}, Login(registry_token="bearer")),
        ({}, None), ({"auth": ""}, None), (None, None), ("x", None), ({"auth": 3}, None),
    ],
)  # fmt: skip
def test_forms_of_a_login(no_logins: Path, entry: Any, expected: Login | None) -> None:
    docker(no_logins, auths={HOST: entry})
    assert find_login(HOST, "engine") == expected


def test_the_first_file_that_knows_the_registry_counts(no_logins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, user: str, host: str = HOST) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"auths": {host: {"username": user, "password": "p"}}}))
        return path

    def user() -> str:
        login = find_login(HOST, "engine")
        return login.user if login else "nobody"

    assert user() == "nobody"
    write(no_logins / "home/.config/containers/auth.json", "config")
    assert user() == "config"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(no_logins / "run"))
    write(no_logins / "run/containers/auth.json", "runtime")
    assert user() == "runtime"
    write(no_logins / "config.json", "docker", "elsewhere.test")
    assert user() == "runtime"
    write(no_logins / "config.json", "docker")
    assert user() == "docker"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(write(no_logins / "named.json", "named")))
    assert user() == "named"
    write(no_logins / "named.json", "named", "elsewhere.test")
    assert user() == "nobody"


@pytest.mark.parametrize("stored", [HOST, f"https://{HOST}", f"https://{HOST}/v1/", "https://other-spelling@" + HOST])
@pytest.mark.parametrize("how", ["credsStore", "credHelpers"])
def test_credential_helpers(no_logins: Path, monkeypatch: pytest.MonkeyPatch, stored: str, how: str) -> None:
    asked = helper(no_logins, monkeypatch, "test", f'[ "$server" = "{stored}" ] || {{ {NOT_FOUND}; }}\n{answer()}')
    if how == "credsStore":
        docker(no_logins, credsStore="test", auths={stored: {}})
    else:
        docker(no_logins, credsStore="missing", credHelpers={"elsewhere.test": "missing", stored: "test"})
    assert find_login(HOST, "engine") == LOGIN
    assert asked.read_text() == f"get {stored}\n"


def test_a_helper_for_docker_hub(no_logins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = helper(no_logins, monkeypatch, "test", answer())
    docker(no_logins, credsStore="test")
    assert find_login("docker.io", "engine") == LOGIN
    assert asked.read_text() == "get https://index.docker.io/v1/\n"


def test_a_helper_that_has_an_identity_token(no_logins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(no_logins, monkeypatch, "test", answer("<token>", "refresh"))
    docker(no_logins, credsStore="test")
    assert find_login(HOST, "engine") == Login(identity_token="refresh")


def test_where_a_helper_has_nothing_the_files_are_read(no_logins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(no_logins, monkeypatch, "test", NOT_FOUND)
    docker(no_logins, credsStore="test", auths={HOST: ENTRY})
    assert find_login(HOST, "engine") == LOGIN
    docker(no_logins, credHelpers={HOST: "test"}, auths={})
    assert find_login(HOST, "engine") is None


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (f"echo {PASSWORD}; exit 1", "failed with status 1; try `echo"),
        (f"echo {PASSWORD} >&2; exit 2", "failed with status 2"),
        (f"echo {PASSWORD}", "did not answer with a login"),
        (f'echo \'{{"Secret": ["{PASSWORD}"]}}\'', "did not answer with a login"),
        (f"echo '[\"{PASSWORD}\"]'", "did not answer with a login"),
        (f'echo \'{{"Username": "{PASSWORD}"}}\'', "did not answer with a login"),
    ],
)
def test_helpers_that_fail(no_logins: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: str) -> None:
    helper(no_logins, monkeypatch, "test", script)
    docker(no_logins, credsStore="test")
    with pytest.raises(CredentialsError, match=r"docker-credential-test, which .*config.json names, ") as caught:
        find_login(HOST, "engine")
    assert expected in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_helper_that_hangs(no_logins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policy_builder.package.credentials.HELPER_TIMEOUT", 0.2)
    helper(no_logins, monkeypatch, "test", "exec sleep 20")
    docker(no_logins, credsStore="test")
    with pytest.raises(CredentialsError, match="did not answer in"):
        find_login(HOST, "engine")


@pytest.mark.parametrize("name", ["../evil", "a/b", "a b", "-x", 3, ["x"], "missing-one"])
def test_helpers_that_are_none(no_logins: Path, monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    docker(no_logins, credHelpers={HOST: name})
    with pytest.raises(CredentialsError, match=r"no plain name|is not on the PATH; install it"):
        find_login(HOST, "engine")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'{{"auths": {{"{HOST}": {{"auth": "{PASSWORD}!"}}}}}}', "is not base64 of USER:PASSWORD"),
        (f'{{"auths": {{"{HOST}": {{"auth": "dXNlcg=="}}}}}}', "is not base64 of USER:PASSWORD"),
        (f'{{"auths": "{PASSWORD}"', "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        (f'"{PASSWORD}"', "is not an object"),
    ],
)
def test_files_that_cannot_be_used(no_logins: Path, text: str, expected: str) -> None:
    (no_logins / "config.json").write_text(text)
    with pytest.raises(CredentialsError, match=expected) as caught:
        find_login(HOST, "engine")
    assert PASSWORD not in str(caught.value)


def test_a_named_file_must_be_there(no_logins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(no_logins / "none.json"))
    with pytest.raises(CredentialsError, match=r"REGISTRY_AUTH_FILE names .*none.json, which is no file"):
        find_login(HOST, "engine")


def test_a_login_is_not_shown() -> None:
    login = Login(USER, PASSWORD, "identity-x", "registry-x")
    for secret in login.secrets():
        assert secret not in repr(login)
