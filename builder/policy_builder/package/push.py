"""Pushes an OCI layout to a registry: the push half of the OCI distribution specification 1.1.

A separate module because it is the one place of the builder that sends anything anywhere, and credentials with it.
Standard library only; used by `policy-builder push` and by `bazel run //:image.push` in offline mode.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path

from policy_builder.package.oci_layout import INDEX_TYPE, MANIFEST_TYPE, blob_path, blobs

TIMEOUT = 300.0
_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_REFERENCE = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(:\d+)?|\[[0-9a-fA-F:]+\](:\d+)?)/(?P<name>[a-z0-9]+([._/-]+[a-z0-9]+)*)"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)


class PushError(Exception):
    """The registry refused, or the reference is not one; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push came to: `uploaded` counts blobs that were sent, `present` those that the registry had."""

    digest: str
    uploaded: int
    present: int
    tags: tuple[str, ...]


def push(layout: Path, repository: str, tags: Sequence[str] = (), *, insecure: bool = False) -> Pushed:
    """Push the image or index in `layout` to `repository` (HOST/NAME) under its digest and `tags`.

    What the registry has already is not sent again. `insecure` allows plain HTTP to a host that is not this machine.
    Raises PushError.
    """
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise PushError(f"{tag!r} is not a tag: letters, digits, `_`, `.` and `-`, at most 128")
    registry = _Registry(repository, insecure)
    uploaded = present = 0
    parts = blobs(layout)
    for part in parts:
        if part.media_type in (MANIFEST_TYPE, INDEX_TYPE):
            new = registry.manifest(
                part.digest, blob_path(layout, part.digest).read_bytes(), part.media_type, part.digest
            )
        else:
            new = registry.blob(part.digest, blob_path(layout, part.digest))
        uploaded, present = uploaded + new, present + (not new)
    top = parts[-1]
    content = blob_path(layout, top.digest).read_bytes()
    for tag in tags:
        registry.manifest(tag, content, top.media_type, top.digest)
    return Pushed(top.digest, uploaded, present, tuple(tags))


class _Registry:
    """One repository of a registry, with basic or token authentication from docker's config.json."""

    def __init__(self, repository: str, insecure: bool) -> None:
        match = _REFERENCE.fullmatch(repository)
        if match is None:
            raise PushError(
                f"{repository!r} is not a repository; write HOST/NAME, such as registry.example.test/team/engine"
            )
        self._host, name = match["host"], match["name"]
        plain = insecure or re.sub(r":\d+$", "", self._host) in _LOCAL
        self._root = f"{'http' if plain else 'https'}://{self._host}/v2/{name}/"
        self._basic = _login(self._host)
        self._authorization = f"Basic {self._basic}" if self._basic else None

    def manifest(self, reference: str, content: bytes, media_type: str, digest: str) -> bool:
        """Store a manifest under a tag or its digest unless it is there; return whether it was sent."""
        found = self._call("HEAD", f"manifests/{reference}", accept=media_type)
        if found is not None and found.headers.get("Docker-Content-Digest") == digest:
            return False
        self._call("PUT", f"manifests/{reference}", content, media_type)
        return True

    def blob(self, digest: str, path: Path) -> bool:
        """Store a blob unless it is there; return whether it was sent."""
        if self._call("HEAD", f"blobs/{digest}") is not None:
            return False
        started = self._call("POST", "blobs/uploads/", b"")
        location = started.headers.get("Location") if started is not None else None
        if not location:
            raise PushError(f"{self._host} accepted an upload without saying where to (no Location header)")
        separator = "&" if "?" in location else "?"
        self._call("PUT", f"{location}{separator}digest={urllib.parse.quote(digest)}", path.read_bytes())
        return True

    def _call(
        self, method: str, url: str, data: bytes | None = None, kind: str = "application/octet-stream", accept: str = ""
    ) -> HTTPResponse | None:
        """Send one request; return its response, or None for 404 to a HEAD."""
        url = urllib.parse.urljoin(self._root, url)
        for attempt in (1, 2):
            request = urllib.request.Request(url, data, method=method)  # noqa: S310 - http and https only, see below
            if request.type not in ("http", "https"):
                raise PushError(f"{self._host} leads to {url}, which is neither http nor https")
            if data is not None:
                request.add_header("Content-Type", kind)
            if accept:
                request.add_header("Accept", accept)
            # Neither another host nor the target of a redirect gets the registry's credentials.
            if self._authorization and request.host == self._host:
                request.add_unredirected_header("Authorization", self._authorization)
            try:
                response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310 - the request above
                with response:
                    response.read()
                return response
            except urllib.error.HTTPError as error:
                challenge = error.headers.get("WWW-Authenticate", "")
                if error.code == 404 and method == "HEAD":
                    return None
                if error.code == 401 and attempt == 1 and challenge.lower().startswith("bearer "):
                    self._authorization = self._token(challenge)
                    continue
                raise PushError(self._refusal(method, url, error)) from None
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                raise PushError(f"{self._host} cannot be reached: {getattr(error, 'reason', error)}") from None
        raise PushError(f"{method} {url}: the registry asks for authentication again after it was given")

    def _refusal(self, method: str, url: str, error: urllib.error.HTTPError) -> str:
        text = error.read(2000).decode(errors="replace").strip()
        advice = f"; run `docker login {self._host}`" if error.code in (401, 403) else ""
        return f"{method} {url}: {error.code} {error.reason}{advice}{f': {text}' if text else ''}"

    def _token(self, challenge: str) -> str:
        """Fetch the bearer token that the `WWW-Authenticate` header asks for (distribution's token specification)."""
        fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        realm = fields.pop("realm", "")
        host = urllib.parse.urlsplit(realm)
        if host.scheme != "https" and not (host.scheme == "http" and self._root.startswith("http:")):
            raise PushError(f"{self._host} sends credentials to {realm!r}, which is not https")
        request = urllib.request.Request(f"{realm}?{urllib.parse.urlencode(fields)}")  # noqa: S310 - checked above
        if self._basic:
            request.add_unredirected_header("Authorization", f"Basic {self._basic}")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310 - the request above
                answer = json.loads(response.read(1 << 20))
            return f"Bearer {answer.get('token') or answer['access_token']}"
        except (urllib.error.URLError, ValueError, KeyError, AttributeError) as error:
            raise PushError(f"no token for {self._host}: {error}; run `docker login {self._host}`") from None


def _login(host: str) -> str | None:
    """Return the base64 of `user:password` that `docker login` stored for `host`, if it did."""
    path = Path(os.environ.get("DOCKER_CONFIG", Path.home() / ".docker")) / "config.json"
    try:
        auth = json.loads(path.read_text(encoding="utf-8"))["auths"][host]["auth"]
        base64.b64decode(auth, validate=True)
    except (OSError, ValueError, KeyError, TypeError, binascii.Error):
        return None
    return str(auth)
