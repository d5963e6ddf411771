"""What `policy-engine trace` does: asks a running engine for the records of real requests, and shows them."""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

from policy_engine.explain.live import MOST_BODY
from policy_engine.explain.text import render, render_line

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 30.0
"""An engine that is there says something more often."""


class CannotFollow(Exception):
    """The engine cannot be asked, or refuses; the message says why. `unusable` when the options are at fault."""

    def __init__(self, message: str, *, unusable: bool = False) -> None:
        super().__init__(message)
        self.unusable = unusable


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_SECONDS)
        self.sock.connect(self._path)


def follow(options: argparse.Namespace, admin: str) -> int:
    """Print records until the limit, the time or an interrupt; returns the exit status. Raises CannotFollow."""
    bodies = options.bodies if options.bodies is not None else MOST_BODY if options.record else 0
    asked = {"route": options.route, "where": options.where, "limit": options.limit, "seconds": options.seconds}
    query = urlencode(
        {name: value for name, value in (asked | {"bodies": bodies or None}).items() if value is not None}
    )
    try:
        record = options.record.open("a", encoding="utf-8") if options.record is not None else None
    except OSError as error:
        raise CannotFollow(f"{options.record}: cannot be written: {error.strerror}", unusable=True) from None
    try:
        for event, data in _events(admin, query):
            _show(event, data, options, record)
            if event == "end":
                return 0
    except KeyboardInterrupt:
        return 0
    finally:
        if record is not None:
            record.close()
    raise CannotFollow(f"{admin} ended the trace")


def _show(event: str, data: dict[str, Any], options: argparse.Namespace, record: IO[str] | None) -> None:
    if event == "dropped":
        print(f"({data['dropped']} requests more than could be recorded or sent)", file=sys.stderr, flush=True)
    if event != "record":
        return
    if record is not None:
        record.write(json.dumps(data, ensure_ascii=False) + "\n")
        record.flush()
    if options.json:
        print(json.dumps(data, ensure_ascii=False), flush=True)
    elif options.brief or record is not None:
        print(render_line(data), flush=True)
    else:
        print(render(data), flush=True)


def _events(admin: str, query: str) -> Iterator[tuple[str, dict[str, Any]]]:
    connection = _connection(admin)
    try:
        connection.request("GET", f"/trace?{query}", headers={"accept": "text/event-stream"})
        response = connection.getresponse()
        if response.status != 200:
            text = response.read(10_000).decode(errors="replace").strip()
            raise CannotFollow(f"{admin}: {text or response.reason}", unusable=response.status == 400)
        print(f"policy-engine: listening to {admin}; Ctrl-C ends it", file=sys.stderr, flush=True)
        if connection.sock is not None:
            connection.sock.settimeout(SILENCE_SECONDS)
        yield from _read(response)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CannotFollow(f"the admin address {admin} does not answer: {reason}; is it admin.listen?") from None
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    event = ""
    for raw in response:
        line = raw.decode(errors="replace").rstrip("\n")
        if line.startswith("event: "):
            event = line[7:]
        elif line.startswith("data: "):
            yield event, json.loads(line[6:])


def _connection(admin: str) -> http.client.HTTPConnection:
    if admin.startswith("unix:"):
        return _UnixConnection(str(Path(admin[5:].partition("?")[0])))
    host, _, port = admin.removeprefix("http://").rstrip("/").rpartition(":")
    if not host or not port.isdecimal():
        raise CannotFollow(f"admin address {admin!r}: expected host:port or unix:/path", unusable=True)
    return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=CONNECT_SECONDS)
