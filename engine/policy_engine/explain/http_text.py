"""Requests and responses as people write them: `.http` files, the flags of curl, a bare path."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from policy_engine.sdk.attributes import AttributeValue, EnvoyMetadata

MOST_BYTES = 64 << 20
_SEPARATOR = re.compile(rb"^###.*$", re.MULTILINE)
_COMMENT = re.compile(rb"\s*(#|//)")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_METHOD = re.compile(r"[A-Z][A-Z-]*", re.ASCII)
_STATUS = re.compile(r"(HTTP/[0-9.]+\s+)?([1-9][0-9]{2})(\s.*)?", re.ASCII)


class BadText(ValueError):
    """A text is no request or response; the message says where and what was expected."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request as a client sends it; `target` is the path with its query string.

    `attributes` and `envoy_metadata` are what Envoy tells of it, by name and by namespace.
    """

    method: str = "GET"
    target: str = "/"
    authority: str = "localhost"
    scheme: str = "https"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    client_address: str = "192.0.2.1"
    route: str = field(default="", compare=False)
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict, compare=False)
    envoy_metadata: EnvoyMetadata = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response as an upstream sends it."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


def read_request(content: bytes, name: str, base: Path | None = None) -> HttpRequest:
    """Return the one request in the text of an `.http` file, `name` in errors.

    A request line (`POST /orders?x=1 HTTP/1.1`, or with a whole URL), headers, an empty line, the body; before it
    comments with `#` or `//`. `< file` as body reads a file beside it, below `base`. Raises BadText.
    """
    texts = [text for text in _SEPARATOR.split(content) if _without_comments(text).strip()]
    if len(texts) != 1:
        raise BadText(f"{name}: holds {len(texts)} requests, expected one")
    head, body = _parts(_without_comments(texts[0]))
    line, *rest = head
    words = line.split()
    if len(words) == 1 and not _METHOD.fullmatch(words[0]):
        words = ["GET", *words]
    if len(words) not in (2, 3) or not _METHOD.fullmatch(words[0]):
        raise BadText(f"{name}: the first line is {line[:80]!r}, expected METHOD and path or URL, as in GET /orders")
    headers = _headers(rest, name)
    if body is not None and body.lstrip().startswith(b"< ") and base is not None:
        body = _file(base / body.strip()[2:].decode(errors="replace").strip())
    request = _with_url(HttpRequest(method=words[0], body=body or None), words[1])
    return _with_headers(request, headers)


def read_response(content: bytes, name: str) -> HttpResponse:
    """Return the response in a text: a status line (`HTTP/1.1 200 OK`, or `200`), headers, an empty line, the body."""
    head, body = _parts(content)
    match = _STATUS.fullmatch(head[0].strip())
    if match is None:
        raise BadText(f"{name}: the first line is {head[0][:80]!r}, expected a status line, as in HTTP/1.1 200 OK")
    return HttpResponse(int(match[2]), tuple(_headers(head[1:], name)), body or None)


def from_flags(  # noqa: PLR0917 - one for each flag
    start: HttpRequest,
    url: str | None,
    method: str | None,
    headers: Sequence[str],
    data: Sequence[str],
    user: str | None,
) -> HttpRequest:
    """Return `start` with what curl's flags say: URL or path, `-X`, `-H`, `-d` (`@file` too), `-u`. Raises BadText."""
    request = start if url is None else _with_url(start, url)
    request = _with_headers(request, _headers(headers, "-H"))
    if data:
        body = b"&".join(_file(Path(one[1:])) if one.startswith("@") else one.encode() for one in data)
        request = replace(request, body=body, method="POST" if request.method == "GET" else request.method)
        if not any(name == "content-type" for name, _ in request.headers):
            kind = ("content-type", "application/x-www-form-urlencoded")
            request = replace(request, headers=(*request.headers, kind))
    if user is not None:
        basic = base64.b64encode(user.encode()).decode()
        request = replace(request, headers=(*request.headers, ("authorization", f"Basic {basic}")))
    return request if method is None else replace(request, method=method)


def _with_url(request: HttpRequest, url: str) -> HttpRequest:
    if url.startswith(("/", "*")):
        return replace(request, target=url.partition("#")[0])
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise BadText(f"{url[:80]!r}: expected a path that begins with /, or an http or https URL")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    user, _, authority = parts.netloc.rpartition("@")
    changed = replace(request, target=target, authority=authority, scheme=parts.scheme)
    return from_flags(changed, None, None, (), (), user) if user else changed


def _with_headers(request: HttpRequest, headers: Sequence[tuple[str, str]]) -> HttpRequest:
    """Add headers; curl's `-H 'name;'` is an empty one, `-H 'name:'` takes one away, `host` is the authority."""
    named = {name for name, _ in headers}
    kept = [pair for pair in request.headers if pair[0] not in named]
    authority = next((value for name, value in headers if name == "host"), request.authority)
    added = [(name, value) for name, value in headers if name != "host"]
    return replace(request, headers=(*kept, *added), authority=authority)


def _headers(lines: Sequence[str], name: str) -> list[tuple[str, str]]:
    found = []
    for line in lines:
        before, colon, value = line.partition(":")
        if not colon and line.endswith(";"):
            before, value, colon = line[:-1], "", ":"
        if not colon or not _NAME.fullmatch(before.strip()):
            raise BadText(f"{name}: {line[:80]!r} is no header, expected NAME: VALUE")
        found.append((before.strip().lower(), value.strip()))
    return found


def _parts(text: bytes) -> tuple[list[str], bytes | None]:
    text = text.replace(b"\r\n", b"\n") if b"\n\n" not in text or b"\r\n\r\n" in text else text
    head, separator, body = text.lstrip(b"\n ").partition(b"\n\n")
    lines = [line.decode("utf-8", "surrogateescape") for line in head.split(b"\n") if line.strip()]
    if separator and body.endswith(b"\n"):
        body = body[:-1]  # an editor ends the last line
    return lines or [""], body if separator else None


def _without_comments(text: bytes) -> bytes:
    lines = text.split(b"\n")
    while lines and (not lines[0].strip() or _COMMENT.match(lines[0])):
        del lines[0]
    return b"\n".join(lines)


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise BadText(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > MOST_BYTES:
        raise BadText(f"{path}: is larger than {MOST_BYTES >> 20} MiB")
    return content
