"""Where a server is that policies ask: the parameters of it, checked once for all policies."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from policy_engine.sdk import ParameterError

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Server:
    """A server and how much of it is waited for: `timeout` in seconds for a whole call, `max_bytes` of an answer.

    `target` is the path with its query; `ca_file` holds the authorities to trust instead of the system's.
    """

    scheme: str
    host: str
    port: int
    target: str
    ca_file: str | None = None
    timeout: float = 5.0
    max_bytes: int = 65_536

    @property
    def authority(self) -> str:
        """The value of the host header."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == _PORTS[self.scheme] else f"{name}:{self.port}"

    @property
    def shown(self) -> str:
        """The URL for logs and metrics: without the query, which may hold a secret."""
        return f"{self.scheme}://{self.authority}{self.target.partition('?')[0]}"


def server_from(parameters: Mapping[str, Any], path: str) -> Server:
    """Return the server that `url`, `ca_file`, `timeout` and `max_bytes` at `path` describe; raises ParameterError.

    `http` is taken for loopback only, unless `plaintext` says that the network between is trusted.
    """
    server = server_of(parameters["url"], f"{path}/url", plain=parameters.get("plaintext", False))
    return Server(
        server.scheme,
        server.host,
        server.port,
        server.target,
        checked_ca_file(parameters.get("ca_file"), f"{path}/ca_file"),
        seconds(parameters.get("timeout", "800ms"), f"{path}/timeout"),
        parameters.get("max_bytes", 65_536),
    )


def server_of(url: str, path: str, *, plain: bool | None = False) -> Server:
    """Return the server of a URL; raises ParameterError at `path`.

    `plain` says whether `http` is taken: True from any host, False from loopback alone, None never.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    schemes = "https" if plain is None else "https or http"
    if (
        parts.scheme not in schemes.split(" or ")
        or not host
        or port == 0
        or parts.username is not None
        or "#" in url
        or not url.isascii()
        or re.search(r"[\x00-\x20\x7f]", url)
    ):
        raise ParameterError(f"an {schemes} URL without user name and fragment is expected", path)
    if parts.scheme == "http" and not plain and not _is_loopback(host):
        raise ParameterError(
            "http is for servers on this machine (localhost, 127.0.0.1, [::1]); use https, or set plaintext where the "
            "network encrypts what is sent",
            path,
        )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Server(parts.scheme, host, port or _PORTS[parts.scheme], target)


def checked_ca_file(ca_file: str | None, path: str) -> str | None:
    """Return the name of the file if its certificates can be used; raises ParameterError."""
    if ca_file is not None:
        try:
            tls_context(ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise ParameterError(f"not a file of PEM certificates that can be read: {error}", path) from None
    return ca_file


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Return a client context that trusts `ca_file`, or else the system; raises OSError when the file is no use."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def seconds(text: str, path: str) -> float:
    """Return the seconds of a duration such as `500ms`, `30s`, `5m` or `1h`; raises ParameterError."""
    found = re.fullmatch(r"(\d{1,9})(ms|s|m|h)", text, re.ASCII)
    if found is None:
        raise ParameterError(f"{text!r} is not a duration such as 500ms, 30s, 5m or 1h", path)
    return int(found[1]) * _SECONDS[found[2]]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
