"""The document at a URL and how long it may be kept; apart from the cache so that each can be tested alone."""

from __future__ import annotations

import http.client
import re
import time
from dataclasses import dataclass, replace

from policy_http import Answer, Call, CallFailed, Connection, server_of, tls_context


@dataclass(frozen=True, slots=True)
class Document:
    """A fetched body; `max_age` is how long it may be kept by Cache-Control and Age, in seconds, None if not said."""

    body: bytes
    max_age: float | None


def fetch(url: str, *, ca_file: str | None, timeout: float, max_bytes: int) -> Document:
    """Get `url` within `timeout` seconds, whatever the server does; raises CallFailed. Blocks: call it in a thread."""
    server = replace(server_of(url, "", plain=None), timeout=timeout, max_bytes=max_bytes)
    deadline = time.monotonic() + timeout
    try:
        # A context for each fetch, so that a renewed CA file counts from the next fetch on.
        context = tls_context(ca_file)
    except OSError as error:
        raise CallFailed(f"{type(error).__name__}: {error}") from error
    connection = Connection(server, context, deadline)
    headers = {"accept": "application/jwk-set+json, application/json", "connection": "close"}
    try:
        return _document(connection.call(Call("GET", server.target, headers), deadline))
    finally:
        connection.close()


def _document(answer: Answer) -> Document:
    if answer.status != http.client.OK:
        raise CallFailed(f"status {answer.status} instead of 200")
    return Document(answer.body, _max_age(answer))


def _max_age(answer: Answer) -> float | None:
    control = answer.header("cache-control").lower()
    if re.search(r"\bno-(store|cache)\b", control):
        return 0.0
    found = re.search(r"\bmax-age=\"?(\d{1,10})", control)
    if found is None:
        return None
    age = answer.header("age")
    return max(0.0, float(found[1]) - (float(age) if re.fullmatch(r"\d{1,10}", age) else 0.0))
