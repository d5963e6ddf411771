"""The server of the engine's pages, byte by byte: what RFC 9112 asks of one, and what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable

import pytest

from policy_engine.telemetry import web
from policy_engine.telemetry.web import Handler, Request, Response, Server, Stream
from policy_engine.transport.listen import bind, bound_address

HOST = "host: localhost\r\n"


async def told(request: Request) -> Response:
    """Answer with what was understood."""
    return Response(f"{request.method} {request.path} {dict(request.query)} {request.host} {request.text!r}")


async def failing(_: Request) -> Response:
    raise LookupError("secret")


async def counting(request: Request) -> Stream:
    stream = Stream(request, "text/plain", {})
    for number in range(3):
        await stream.write(f"{number}\n".encode())
    return stream


async def around(request: Request, handler: Handler) -> Response | Stream:
    """Refuse a header."""
    return Response("no\n", 403) if "x-refused" in request.headers else await handler(request)


PAGES: dict[str, dict[str, Handler]] = {
    "/told": {"GET": told, "PUT": told},
    "/failing": {"GET": failing},
    "/counting": {"GET": counting},
}


def with_server(test: Callable[[str, int, Server], Awaitable[None]]) -> None:
    async def run() -> None:
        server = Server(PAGES, around=[around])
        sock = bind("127.0.0.1:0")
        await server.start(sock)
        host, _, port = bound_address(sock).rpartition(":")
        try:
            async with asyncio.timeout(20):
                await test(host, int(port), server)
        finally:
            await asyncio.wait_for(server.close(), 10)

    asyncio.run(run())


def answers(*pieces: str) -> str:
    """Return all that the server says to these bytes, until it has nothing more to say to who sends no more."""
    said = []

    async def test(host: str, port: int, _: Server) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for piece in pieces:
            writer.write(piece.encode("latin-1"))
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write_eof()
        said.append((await reader.read()).decode("latin-1"))
        writer.close()

    with_server(test)
    return re.sub(r"date: [^\r]*\r\n", "", said[0]).replace("Connection: ", "connection: ")


def of(body: str, *, status: str = "200 OK", lines: str = "") -> str:
    kind = "content-type: text/plain; charset=utf-8\r\n"
    return f"HTTP/1.1 {status}\r\n{kind}content-length: {len(body)}\r\n{lines}\r\n{body}"


@pytest.mark.parametrize(
    ("request_", "understood"),
    [
        (f"GET /told HTTP/1.1\r\n{HOST}\r\n", "GET /told {} localhost ''"),
        (f"GET /t%6fld?a=1&b=&a=2&c=%2F+ HTTP/1.1\r\n{HOST}\r\n",
         "GET /told {'c': '/ ', 'a': '1', 'b': ''} localhost ''"),
        ("GET http://other:1/told HTTP/1.1\r\nHOST:  other:1 \r\n\r\n", "GET /told {} other:1 ''"),
        (f"PUT /told HTTP/1.1\r\n{HOST}content-length: 2\r\n\r\nhi", "PUT /told {} localhost 'hi'"),
        (f"PUT /told HTTP/1.1\r\n{HOST}transfer-encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n1\r\n!\r\n0\r\n\r\n",
         "PUT /told {} localhost 'hi!'"),
    ],
)  # fmt: skip
def test_requests_are_understood_in_one_piece_and_byte_by_byte(request_: str, understood: str) -> None:
    assert answers(request_) == of(understood)
    assert answers(*request_) == of(understood)


def test_a_connection_takes_one_request_after_the_other() -> None:
    one = f"GET /told HTTP/1.1\r\n{HOST}\r\n"
    answer = of("GET /told {} localhost ''")
    assert answers(one, one) == answers(one + one) == answer * 2
    last = f"GET /told HTTP/1.1\r\n{HOST}connection: Close\r\n\r\n"
    assert answers(one + last + one) == answer + of("GET /told {} localhost ''", lines="connection: close\r\n")
    old = of("GET /told {}  ''", lines="connection: close\r\n")
    assert answers("GET /told HTTP/1.0\r\n\r\n" + one) == old


def test_head_has_no_body_and_what_is_not_there_says_so() -> None:
    whole = of("HEAD /told {} localhost ''")
    assert answers(f"HEAD /told HTTP/1.1\r\n{HOST}\r\n") == whole.partition("\r\n\r\n")[0] + "\r\n\r\n"
    assert answers(f"GET /absent HTTP/1.1\r\n{HOST}\r\n") == of("404 Not Found\n", status="404 Not Found")
    refused = answers(f"DELETE /told HTTP/1.1\r\n{HOST}\r\n")
    assert refused.startswith("HTTP/1.1 405 Method Not Allowed\r\n")
    assert "\r\nallow: GET, HEAD, PUT\r\n" in refused
    assert answers(f"GET /absent HTTP/1.1\r\n{HOST}x-refused: 1\r\n\r\n") == of("no\n", status="403 Forbidden")


def test_a_page_that_fails_ends_nothing_and_tells_nothing() -> None:
    one = f"GET /failing HTTP/1.1\r\n{HOST}\r\n"
    failure = of("500 Internal Server Error\n", status="500 Internal Server Error")
    assert answers(one, one) == failure * 2


def test_a_stream_ends_with_its_connection() -> None:
    head, _, body = answers(f"GET /counting HTTP/1.1\r\n{HOST}\r\n").partition("\r\n\r\n")
    assert "connection: close" in head
    assert body == "".join(f"2\r\n{number}\n\r\n" for number in range(3)) + "0\r\n\r\n"


def test_a_client_that_asks_before_it_sends_a_body_is_told_to_go_on() -> None:
    head = f"PUT /told HTTP/1.1\r\n{HOST}expect: 100-continue\r\ncontent-length: 2\r\n\r\n"
    assert answers(head, "hi") == "HTTP/1.1 100 Continue\r\n\r\n" + of("PUT /told {} localhost 'hi'")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("nonsense\r\n\r\n", 400),
        (f"GET /told HTTP/2.0\r\n{HOST}\r\n", 505),
        ("GET /told HTTP/1.1\r\n\r\n", 400),
        (f"GET  /told HTTP/1.1\r\n{HOST}\r\n", 400),
        (f"GET /t\x80ld HTTP/1.1\r\n{HOST}\r\n", 400),
        (f"GET http://[::1/told HTTP/1.1\r\n{HOST}\r\n", 400),
        (f"GET /told HTTP/1.1\r\n{HOST}{HOST}\r\n", 400),
        (f"GET /told HTTP/1.1\r\n{HOST}x : 1\r\n\r\n", 400),
        (f"GET /told HTTP/1.1\r\n{HOST}x: a\nb\r\n\r\n", 400),
        (f"PUT /told HTTP/1.1\r\n{HOST}content-length: 1\r\ncontent-length: 2\r\n\r\nhi", 400),
        (f"PUT /told HTTP/1.1\r\n{HOST}content-length: -1\r\n\r\n", 400),
        (f"PUT /told HTTP/1.1\r\n{HOST}content-length: +1\r\n\r\nx", 400),
        (f"PUT /told HTTP/1.1\r\n{HOST}transfer-encoding: gzip\r\n\r\n", 501),
        (f"PUT /told HTTP/1.1\r\n{HOST}transfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (f"PUT /told HTTP/1.1\r\n{HOST}transfer-encoding: chunked\r\n\r\n2\r\nhix\r\n0\r\n\r\n", 400),
        (f"PUT /told HTTP/1.1\r\n{HOST}content-length: 999999\r\n\r\n", 413),
        (f"PUT /told HTTP/1.1\r\n{HOST}transfer-encoding: chunked\r\n\r\nfffff\r\n{'x' * 70_000}", 413),
        (f"GET /told HTTP/1.1\r\n{HOST}x: {'x' * 50_000}\r\n\r\n", 431),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_and_ends_the_connection(request_: str, status: int) -> None:
    said = answers(request_ + f"GET /told HTTP/1.1\r\n{HOST}\r\n" * (status == 400))
    assert said.startswith(f"HTTP/1.1 {status} ")
    assert said.count("HTTP/1.1 ") == 1
    assert "connection: close" in said


@pytest.mark.parametrize("sent", ["", "GET /told", f"PUT /told HTTP/1.1\r\n{HOST}content-length: 9\r\n\r\nhi"])
def test_who_says_nothing_more_is_not_waited_for(sent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "IDLE_SECONDS", 0.2)

    async def test(host: str, port: int, _: Server) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(sent.encode())
        assert await reader.read() == b""
        writer.close()

    with_server(test)
    assert answers(sent) == ""


def test_connections_are_bounded_and_an_idle_one_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MOST_CONNECTIONS", 2)

    async def test(host: str, port: int, server: Server) -> None:
        held = [await asyncio.open_connection(host, port) for _ in range(2)]
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection(host, port)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        await asyncio.wait_for(server.close(), 2)
        assert [await reader.read() for reader, _ in held] == [b"", b""]
        for _, writer in held:
            writer.close()

    with_server(test)
