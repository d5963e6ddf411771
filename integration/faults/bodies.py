"""One client sends the costliest bodies that are known, one after the other; the others are not to notice."""

from __future__ import annotations

import gzip
import itertools
import socket
import threading
import time
from contextlib import suppress

from integration.faults.changes import MARKED
from integration.faults.scenario import Measured, Promise, Scenario, Terms
from integration.faults.site import POLICIES, site
from integration.harness.chain_file import Document, chain, chains, policy

_FOR_S = 10.0
_LATEST_S = 60.0
_BIG = 9_000_000


def _chains() -> Document:
    guard = {"prompt": {"deny_words": ["x"], "deny_patterns": ["bad"], "allow_patterns": ["not bad"]}}
    schema = {"request": {"schema": {"type": "array", "items": {"type": "array"}}}}
    return chains(
        chain("r", MARKED),
        chain("guard", policy("llm-prompt-guard", "v1", guard)),
        chain("schema", policy("json-schema-validation", "v1", schema)),
        chain("pii", policy("pii-masking", "v1", {"directions": ["request"]})),
    )


def bodies() -> list[tuple[str, str, bytes, str]]:
    """Return route, content type, body and content coding of each."""
    json_type, text = "application/json", "text/plain"
    marks = "a" + "\u0301" * 400_000 + "\u0316" * 400_000
    prompt = '{"messages":[{"role":"user","content":"%s"}]}'
    return [
        ("guard", json_type, (prompt % marks).encode(), ""),
        ("guard", json_type, (prompt % ("not bad " * 4_000)).encode(), ""),
        ("guard", json_type, (prompt % ("word " * (_BIG // 5))).encode(), ""),
        ("schema", json_type, b"[" + b"[]," * (_BIG // 3) + b"[]]", ""),
        ("schema", json_type, b"[" * 200_000 + b"]" * 200_000, ""),
        ("schema", json_type, gzip.compress(b"") * 100_000, "gzip"),
        ("pii", text, b"a@" * 450_000, ""),
        ("pii", text, b"1 " * 450_000, ""),
        ("pii", text, b"DE00 " * 180_000, ""),
    ]


class _OneClient:
    """Sends them in turn on connections of its own until it is told to stop."""

    def __init__(self, port: int) -> None:
        self.answers: list[str] = []
        self.unanswered: list[str] = []
        self._port = port
        self._bodies = bodies()  # made here: it takes a while, in which the load must not wait
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="one-client")

    def _run(self) -> None:
        for route, kind, body, coding in itertools.cycle(self._bodies):
            if self._stop.is_set():
                return
            lines = [f"POST /{route}/x HTTP/1.1", "host: one", f"content-type: {kind}", f"content-length: {len(body)}"]
            lines += ["connection: close", *([f"content-encoding: {coding}"] if coding else [])]
            answer = b""
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), _LATEST_S) as connection:
                with suppress(ConnectionError):  # an early answer
                    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
                answer = connection.recv(100)
            (self.answers if answer else self.unanswered).append(f"{route} {answer[9:12].decode()}")

    def __enter__(self) -> _OneClient:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def one_client(terms: Terms) -> Measured:
    """For ten seconds."""
    with site(_chains(), POLICIES, terms.engines) as running:
        workers, hostile = running.workers(), _OneClient(running.port)
        with running.loaded(terms) as course:
            with hostile:
                time.sleep(_FOR_S)
            course.fault_ends()
            course.whole_again(running.ready, "ready")
            kinds = len(bodies())
            course.expect(len(hostile.answers) >= kinds, f"{len(hostile.answers)} bodies answered, of {kinds} kinds")
            course.expect(not hostile.unanswered, f"bodies without an answer: {hostile.unanswered}")
            course.expect(running.workers() == workers, "a worker process was replaced")
    return course.measured()


SCENARIOS = (
    Scenario(
        name="bodies",
        fault="one client sends the costliest bodies for 10 s",
        run=one_client,
        promise=Promise(failed=0, recovered=8.0, p99=0.05),
    ),
)
