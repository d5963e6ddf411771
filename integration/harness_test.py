"""The harness itself: a test double that lies makes every other integration test worthless."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import jwt
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, TrailersReceived

from integration.harness import client
from integration.harness.certificates import CertificateAuthority
from integration.harness.exchange import Answer
from integration.harness.jwks import JwksServer
from integration.harness.processes import Process, ProcessError
from integration.harness.tokens import Issuer
from integration.harness.upstream import Upstream


def test_upstream_records_duplicates_body_and_trailers_and_echoes() -> None:
    with Upstream() as upstream:
        reply = client.send(
            upstream.port,
            "POST",
            "/a/../b?x=%2f",
            headers=[("x-one", "1"), ("x-one", "2")],
            body=iter([b"he", b"llo"]),
            trailers=[("x-end", "yes")],
        )
        seen = upstream.last()
    assert (seen.method, seen.target, seen.values("x-one")) == ("POST", "/a/../b?x=%2f", ["1", "2"])
    assert (bytes(seen.body), seen.trailers, seen.complete) == (b"hello", [("x-end", "yes")], True)
    assert reply.status == 200
    assert reply.json()["body"] == "hello"


def test_upstream_answers_what_it_is_told() -> None:
    with Upstream() as upstream:
        upstream.answer_with(
            Answer(status=503, headers=[("set-cookie", "a=1"), ("set-cookie", "b=2")], chunks=[b"x", b"y"])
        )
        with client.Connection(upstream.port) as connection:
            first = connection.send()
            upstream.answer_with(Answer.events(["one", "two", "three"], interval_s=0.05))
            second = connection.send()
    assert (first.status, first.values("set-cookie"), first.body) == (503, ["a=1", "b=2"], b"xy")
    assert second.body == b"data: one\n\ndata: two\n\ndata: three\n\n"
    assert second.chunks[-1][0] - second.chunks[0][0] > 0.05  # pieces were not held back and joined


def test_upstream_speaks_http2_with_trailers_and_flow_control() -> None:
    body = b"z" * 300_000  # larger than the initial window of 65,535 bytes
    with Upstream() as upstream:
        upstream.answer_with(Answer(headers=[("x-kind", "h2")], chunks=[body], trailers=[("x-end", "yes")]))
        status, received, trailers = _http2_get(upstream.port)
        assert upstream.last().http_version == "HTTP/2"
    assert (status, len(received), trailers) == ("200", len(body), [("x-end", "yes")])


def _http2_get(port: int) -> tuple[str, bytes, list[tuple[str, str]]]:
    import socket

    connection = H2Connection(H2Configuration(header_encoding="utf-8"))
    status, body, trailers = "", bytearray(), list[tuple[str, str]]()
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        connection.initiate_connection()
        connection.send_headers(
            1, [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "t")], end_stream=True
        )
        while True:
            sock.sendall(connection.data_to_send())
            data = sock.recv(65536)
            assert data, "server closed early"
            for event in connection.receive_data(data):
                if isinstance(event, ResponseReceived):
                    status = next(str(value) for name, value in event.headers if str(name) == ":status")
                elif isinstance(event, DataReceived):
                    body += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, 1)
                elif isinstance(event, TrailersReceived):
                    trailers = [(str(name), str(value)) for name, value in event.headers]
                elif isinstance(event, StreamEnded):
                    return status, bytes(body), trailers


def test_jwks_server_is_verified_tls_and_rotates(tmp_path: Path) -> None:
    authority, issuer = CertificateAuthority.create(), Issuer()
    with JwksServer(issuer, authority, tmp_path) as server:
        trusting = ssl.create_default_context(cadata=authority.certificate_pem.decode())
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(server.url, context=ssl.create_default_context())
        before = json.load(urllib.request.urlopen(server.url, context=trusting))
        issuer.rotate()
        after = json.load(urllib.request.urlopen(server.url, context=trusting))
    assert (before["keys"][0]["kid"], after["keys"][0]["kid"], server.fetches) == ("key-1", "key-2", 2)


def test_good_token_is_good_and_each_bad_one_is_bad_in_its_own_way() -> None:
    issuer = Issuer()
    key = jwt.PyJWK(issuer.jwks()["keys"][0])

    def decode(token: str) -> dict[str, object]:
        return jwt.decode(token, key.key, algorithms=["RS256"], audience=issuer.audience)

    assert decode(issuer.token(role="admin"))["role"] == "admin"
    for token, refusal in (
        (issuer.expired(), jwt.ExpiredSignatureError),
        (issuer.wrong_key(), jwt.InvalidSignatureError),
        (issuer.tampered(), jwt.InvalidSignatureError),
        (issuer.unsigned(), jwt.InvalidAlgorithmError),
        (issuer.hmac_confusion(), jwt.InvalidAlgorithmError),
    ):
        with pytest.raises(refusal):
            decode(token)
    assert jwt.get_unverified_header(issuer.unsigned())["alg"] == "none"
    assert jwt.get_unverified_header(issuer.hmac_confusion())["alg"] == "HS256"


def test_process_that_ends_early_is_reported_with_its_output(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "print('no such setting'); raise SystemExit(3)"]
    with (
        Process("engine", program, log_path=tmp_path / "log") as process,
        pytest.raises(ProcessError, match=r"(?s)engine ended with 3 before serving.*no such setting"),
    ):
        process.wait_until(lambda: False, what="serving")


def test_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 1000 & echo $!; wait; wait"
    process = Process("stubborn", ["sh", "-c", script], log_path=tmp_path / "log")
    process.wait_until(lambda: process.log().endswith("\n"), what="started")
    child = int(process.log())
    assert process.stop(timeout_s=0.2) == -signal.SIGKILL
    _assert_dies(child)


def test_process_dies_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import pathlib, time\n"
        "from integration.harness.processes import Process\n"
        f"p = Process('child', ['sleep', '1000'], log_path=pathlib.Path({str(tmp_path / 'log')!r}))\n"
        # setpriv must have run: a parent that dies before is not noticed by its child.
        "while pathlib.Path(f'/proc/{p.pid}/comm').read_text() != 'sleep\\n': time.sleep(0.01)\n"
        "print(p.pid, flush=True); time.sleep(1000)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=env) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    _assert_dies(child)


def _assert_dies(pid: int) -> None:
    deadline = time.monotonic() + 10
    while _is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_upstream_stops_while_a_client_waits() -> None:
    with Upstream() as upstream:
        upstream.answer_with(Answer(delay_s=60))
        waiting = threading.Thread(target=_ignore_break, args=(upstream.port,))
        waiting.start()
        while not upstream.received:
            time.sleep(0.01)
    waiting.join(10)
    assert not waiting.is_alive()


def _ignore_break(port: int) -> None:
    import contextlib

    with contextlib.suppress(OSError):
        client.send(port)
