"""The upstream's HTTP/1.1 side: one connection, framed by h11, so that trailers and header order are seen as sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import h11

from integration.harness.exchange import Answer, HeaderList, Received, Responder

_READ_SIZE = 65536


async def serve(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    first: bytes,
    record: Callable[[Received], None],
    respond: Responder,
) -> None:
    """Serve requests of one connection until it closes; `first` are bytes already read from it."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(first)
    while await _serve_one(connection, reader, writer, record, respond):
        connection.start_next_cycle()


async def _serve_one(
    connection: h11.Connection,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    record: Callable[[Received], None],
    respond: Responder,
) -> bool:
    request = await _receive(connection, reader, record)
    if request is None:
        return False
    await _send(connection, writer, respond(request))
    return connection.our_state is h11.DONE and connection.their_state is h11.DONE


async def _receive(
    connection: h11.Connection, reader: asyncio.StreamReader, record: Callable[[Received], None]
) -> Received | None:
    request: Received | None = None
    while True:
        event: Any = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_SIZE))
        elif isinstance(event, h11.Request):
            request = Received(_text(event.method), _text(event.target), _pairs(event.headers), "HTTP/1.1")
            record(request)
        elif isinstance(event, h11.Data):
            assert request is not None
            request.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            request.trailers = _pairs(event.headers)
            request.complete = True
            return request
        else:  # ConnectionClosed
            return None


async def _send(connection: h11.Connection, writer: asyncio.StreamWriter, answer: Answer) -> None:
    def emit(event: h11.Event) -> None:
        writer.write(connection.send(event) or b"")

    if answer.held is not None:
        await answer.held()
    await asyncio.sleep(answer.delay_s)
    emit(h11.Response(status_code=answer.status, headers=_raw(answer.headers)))
    for chunk in answer.chunks:
        await asyncio.sleep(answer.chunk_delay_s)
        emit(h11.Data(data=chunk))
        await writer.drain()
    emit(h11.EndOfMessage(headers=_raw(answer.trailers)))
    await writer.drain()


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


def _pairs(headers: Any) -> list[tuple[str, str]]:
    return [(_text(bytes(name)), _text(bytes(value))) for name, value in headers]


def _raw(headers: HeaderList) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
