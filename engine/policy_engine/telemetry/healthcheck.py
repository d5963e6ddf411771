"""`policy-engine healthcheck`: asks a running engine how it is, where there is no shell and no curl to do so.

A separate module because it runs beside an engine, as a command of a container or a unit, and imports none of it.
"""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

from policy_engine.transport.listen import parse_address

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is dialled for it
_LONGEST_ANSWER = 16 << 10


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def healthcheck(address: str, *, live: bool, timeout: float) -> tuple[bool, str]:
    """Return whether the engine whose health address this is says that it is ready (or alive), and what it says.

    `address` is as in the setting `health.listen`; `timeout` is in seconds.
    """
    parsed = parse_address(address)
    connection = (
        _UnixConnection(parsed, timeout)
        if isinstance(parsed, Path)
        else http.client.HTTPConnection(_ANY.get(parsed[0], parsed[0]), parsed[1], timeout=timeout)
    )
    path = "/livez" if live else "/readyz"
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read(_LONGEST_ANSWER).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return False, f"{address} does not answer {path}: {error}"
    finally:
        connection.close()
    return answer.status == http.HTTPStatus.OK, text
