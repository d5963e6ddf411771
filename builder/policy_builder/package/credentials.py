"""Finds the login for a registry where `docker login`, `podman login` and credential helpers keep it.

A separate module because who has a password, and under which spelling of the registry's name, is a matter of files and
programs, while `push` knows the wire only. Standard library only.

The first file that knows the registry counts, as with podman and docker: the one that REGISTRY_AUTH_FILE names, and
then no other; else `config.json` in DOCKER_CONFIG or ~/.docker; `containers/auth.json` in XDG_RUNTIME_DIR; the same in
XDG_CONFIG_HOME or ~/.config. Their form: docker's `config.json`, containers-auth.json(5).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HELPER_TIMEOUT = 60.0
"""Seconds for one answer of a credential helper, which may ask a person."""

DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
"""Names of one registry."""

_HUB_KEY = "https://index.docker.io/v1/"
_TOKEN_USER = "<token>"  # noqa: S105 - what helpers answer as the user of an identity token
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_BYTES = 4 << 20


class CredentialsError(Exception):
    """A login may be there but cannot be had; the message says where and what to do, and never shows what was read."""


@dataclass(frozen=True, slots=True)
class Login:
    """One of: user and `password`; an `identity_token`, which buys a token; a `registry_token`, sent as it is."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """`user:password` as the basic scheme has it (RFC 7617); empty for a login by token."""
        if not self.password:
            return ""
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def secrets(self) -> tuple[str, ...]:
        """Return every text that must not be shown."""
        return tuple(one for one in (self.password, self.identity_token, self.registry_token, self.basic) if one)


def find_login(host: str, name: str) -> Login | None:
    """Return the login for the repository `name` at `host` (with its port, if one is given); None when there is none.

    A login for a part of a registry (`HOST/team`) goes before one for all of it. Raises CredentialsError.
    """
    for path in _files():
        document = _read(path)
        helper = _helper(path, document, host)
        if helper is not None:
            login = _ask(path, *helper, _spellings(document, host))
            if login is not None:
                return login
        login = _stored(path, document, host, name)
        if login is not None:
            return login
    return None


def _files() -> Iterator[Path]:
    named = os.environ.get("REGISTRY_AUTH_FILE")
    if named:
        if not Path(named).is_file():
            raise CredentialsError(f"REGISTRY_AUTH_FILE names {named}, which is no file; `podman login` writes it")
        yield Path(named)
        return
    home = Path.home()
    candidates = [Path(os.environ.get("DOCKER_CONFIG") or home / ".docker", "config.json")]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        candidates.append(Path(runtime, "containers/auth.json"))
    candidates.append(Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config", "containers/auth.json"))
    yield from (one for one in candidates if one.is_file())


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
    except OSError as error:
        raise CredentialsError(f"{path} cannot be read: {error.strerror or type(error).__name__}") from None
    except (ValueError, RecursionError):
        raise CredentialsError(f"{path} is not valid JSON; log in again, or remove it") from None
    if not isinstance(document, dict):
        raise CredentialsError(f"{path} is not an object with `auths`; log in again, or remove it")
    return document


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the object at `key`; anything else counts as none."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _split(key: str) -> tuple[str, str]:
    """Return host and namespace that a key means: `https://HOST/v1/` and `HOST:443` mean all of HOST."""
    scheme, separator, rest = key.strip().rpartition("://")
    host, _, path = rest.partition("/")
    path = path.strip("/")
    if separator or path in ("v1", "v2"):
        path = ""
    host = host.rpartition("@")[2].lower()
    if scheme.lower() != "http":
        host = host.removesuffix(":443")
    return ("docker.io" if host in DOCKER_HUB else host), path


def _same_host(key: str, host: str) -> bool:
    return _split(key)[0] == _split(host)[0]


def _helper(path: Path, document: Mapping[str, Any], host: str) -> tuple[str, str] | None:
    """Return the helper that knows the login for `host`, and the name by which the file has it."""
    helpers = _table(document, "credHelpers")
    key = host if host in helpers else next((one for one in helpers if _same_host(one, host)), "")
    helper = helpers.get(key) if key else document.get("credsStore")
    if not helper:
        return None
    if not isinstance(helper, str) or not _HELPER.fullmatch(helper):
        raise CredentialsError(f"{path} names a credential helper for {host} that is no plain name, such as `pass`")
    return helper, key


def _spellings(document: Mapping[str, Any], host: str) -> list[str]:
    """Return the names under which a helper may have the login: those that the file lists, then what tools use."""
    listed = [one for one in _table(document, "auths") if _same_host(one, host)]
    bare, _ = _split(host)
    if bare == "docker.io":
        return [*listed, _HUB_KEY, *DOCKER_HUB]
    return [*listed, host, bare, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/"]


def _ask(path: Path, helper: str, key: str, spellings: list[str]) -> Login | None:
    """Return the login that `docker-credential-HELPER get` answers with, under whichever spelling it has one."""
    for server in dict.fromkeys([key, *spellings] if key else spellings):
        login = _get(path, helper, server)
        if login is not None:
            return login
    return None


def _get(path: Path, helper: str, server: str) -> Login | None:
    """Run the helper once; what it writes is never shown, since it may be the secret."""
    program = f"docker-credential-{helper}"
    advice = f"try `echo {server} | {program} get`, or log in again"
    try:
        done = subprocess.run(
            [program, "get"], input=server.encode(), capture_output=True, check=False, timeout=HELPER_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise CredentialsError(
            f"{program}, which {path} names, did not answer in {HELPER_TIMEOUT:.0f} s; {advice}"
        ) from None
    except OSError as error:
        reason = "is not on the PATH" if isinstance(error, FileNotFoundError) else f"does not start: {error.strerror}"
        raise CredentialsError(f"{program}, which {path} names, {reason}; install it, or log in again") from None
    if done.returncode:
        # The protocol has no status for "none is stored": docker's helpers all write this sentence.
        if b"credentials not found" in (done.stdout + done.stderr).lower():
            return None
        raise CredentialsError(f"{program}, which {path} names, failed with status {done.returncode}; {advice}")
    try:
        answer = json.loads(done.stdout)
        user, secret = answer.get("Username") or "", answer["Secret"]
    except (ValueError, RecursionError, KeyError, AttributeError):
        raise CredentialsError(f"{program}, which {path} names, did not answer with a login; {advice}") from None
    if not isinstance(user, str) or not isinstance(secret, str):
        raise CredentialsError(f"{program}, which {path} names, did not answer with a login; {advice}")
    if not secret:
        return None
    return Login(identity_token=secret) if user == _TOKEN_USER else Login(user, secret)


def _stored(path: Path, document: Mapping[str, Any], host: str, name: str) -> Login | None:
    """Return the login in `auths`: that of the longest part of the repository's name, then that of the registry."""
    wanted, _ = _split(host)
    found: list[tuple[int, bool, str, Any]] = []
    for key, entry in _table(document, "auths").items():
        owner, namespace = _split(key)
        if owner == wanted and (not namespace or f"{name}/".startswith(f"{namespace}/")):
            found.append((len(namespace), key == host, key, entry))
    for _, _, key, entry in sorted(found, key=lambda one: one[:2], reverse=True):
        login = _login(path, key, entry)
        if login is not None:
            return login
    return None


def _login(path: Path, key: str, entry: Any) -> Login | None:
    """Return the login that an entry has; an empty one only says that a helper has it."""
    if not isinstance(entry, dict):
        return None
    identity, registry, auth = (_text(entry, one) for one in ("identitytoken", "registrytoken", "auth"))
    if registry:
        return Login(registry_token=registry)
    if identity:
        return Login(identity_token=identity)
    if not auth:
        user, password = _text(entry, "username"), _text(entry, "password")
        return Login(user, password) if user and password else None
    try:
        user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon:
        raise CredentialsError(f"{path}: `auth` of {key} is not base64 of USER:PASSWORD; log in again")
    password = password.rstrip("\0")  # docker pads
    return Login(user, password) if password else None


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""
