"""One gRPC call on a stream: hands messages to its handler one at a time, sends replies, ends with a status.

A handler that answers at once costs no task: its reply is in the same write as those of other streams.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from policy_engine.kernel.stream import Peer, Replies, StreamError, StreamHandler
from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.transport.counters import Counters
from policy_engine.transport.native import headers
from policy_engine.transport.native.flow_control import ReceiveFlow
from policy_engine.transport.native.messages import PREFIX, PREFIX_SIZE, MessageReader
from policy_engine.transport.native.sending import Sender
from policy_engine.transport.native.stream import Stream

repeated = RepeatedLines(logging.getLogger("policy_engine.transport"))

_AT_ONCE = (bytes, tuple, type(None))
"""Types of an answer that needs no task."""


class Service(Protocol):
    """What the calls of one server share."""

    counters: Counters
    max_message_bytes: int

    def start_task(self, coroutine: Coroutine[Any, Any, Replies]) -> asyncio.Task[Replies]:
        """Run a coroutine of a handler; the task may be done already."""
        ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """Call back after `delay` seconds."""
        ...


class CallConnection(Protocol):
    """What a call needs of the connection it is on."""

    flow: ReceiveFlow
    peer: Peer
    receiving: bool
    send_limit: int
    sender: Sender

    @property
    def saturated(self) -> bool:
        """So many replies wait for the client that no further messages should be handled."""
        ...

    def stall(self, stream: Stream, /) -> None:
        """Resume this stream when the connection is no longer saturated."""
        ...

    def send_headers(self, stream_id: int, block: bytes, /) -> None:
        """Send response headers."""
        ...

    def end(self, stream: Stream, block: bytes, /) -> None:
        """End the stream with this block of trailers, after what is pending."""
        ...

    def wake(self) -> None:
        """See to it that what is in the output is written."""
        ...


class Call(Stream):
    """A stream with a handler. The order of things is message, reply, …, half-close, trailers with `grpc-status: 0`."""

    __slots__ = ("_deadline", "_handler", "_in_task", "_reader", "_service", "_task", "connection", "head")

    def __init__(self, connection: CallConnection, stream_id: int, head: headers.RequestHead, service: Service) -> None:
        super().__init__(stream_id, connection.flow.stream_initial, head.content_length)
        self.connection = connection
        self.head = head
        self._service = service
        self._handler: StreamHandler | None = None
        self._reader: MessageReader | None = None
        self._task: asyncio.Task[Replies] | None = None
        self._in_task = 0
        """Size of the message that the task works on."""
        self._deadline: asyncio.TimerHandle | None = None
        if head.timeout is not None:
            self._deadline = service.call_later(head.timeout, self._deadline_exceeded)

    def attach(self, handler: StreamHandler) -> None:
        """Set the handler; before any data."""
        self._handler = handler

    def cancel_deadline(self) -> None:
        """Forget `grpc-timeout`."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # -- messages in --------------------------------------------------------------------------------------------------

    def data_received(self, chunk: bytes) -> int:
        """Take payload. The usual case, a whole message with nothing else under way, goes straight to the handler."""
        if self.ended:
            return 0
        size = len(chunk) - PREFIX_SIZE
        if (
            self._reader is None
            and self._task is None
            and self.pending is None
            and size >= 0
            and PREFIX.unpack_from(chunk) == (0, size)
            and size <= self._service.max_message_bytes
            and self.connection.sender.pending_bytes <= self.connection.send_limit
        ):
            self._deliver(chunk[PREFIX_SIZE:])
            return self._in_task
        if self._reader is None:
            self._reader = MessageReader(self._service.max_message_bytes, gzip=self.head.gzip)
        self._reader.feed(chunk)
        return self._drain(self._reader)

    def end_received(self) -> None:
        """Finish when all messages are answered."""
        if not self.ended:
            self._finish_if_done()

    def missing(self) -> int:
        """Bytes that the message under way lacks."""
        return 0 if self._reader is None or self.ended else self._reader.missing()

    def resume(self) -> None:
        """Go on with messages that waited for earlier replies to be taken."""
        if self.ended:
            return
        if self._reader is not None and self._task is None:
            self._settle(self._drain(self._reader))
        self._finish_if_done()

    def _drain(self, reader: MessageReader) -> int:
        while self._task is None and self.pending is None and not self.ended:
            if self.connection.saturated:
                self.connection.stall(self)
                break
            try:
                message = reader.next()
            except StreamError as error:
                self.fail(error.status, error.message)
                break
            if message is None:
                break
            self._deliver(message)
        if self.ended:
            return 0
        held = reader.buffered + self._in_task
        if reader.buffered == 0:
            self._reader = None
        return held

    def _deliver(self, message: bytes) -> None:
        handler = self._handler
        if handler is None:
            return
        self._service.counters.messages_in += 1
        try:
            replies = handler.receive(message)
            if type(replies) is not bytes and not isinstance(replies, _AT_ONCE):
                task = self._service.start_task(replies)
                if not task.done():
                    self._task = task
                    self._in_task = len(message) + PREFIX_SIZE
                    task.add_done_callback(self._task_done)
                    return
                replies = task.result()
        except (Exception, asyncio.CancelledError) as error:
            self._handler_failed(error)
            return
        if type(replies) is bytes:
            self.push(replies)
        elif replies is not None:
            self._reply(replies)

    def _task_done(self, task: asyncio.Task[Replies]) -> None:
        self._task = None
        self._in_task = 0
        if self.ended:
            self._linger_over(task)
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._reply(task.result() or ())
        else:
            self._handler_failed(error)
        if not self.ended:
            self._settle(self._drain(self._reader) if self._reader is not None else 0)
            self._finish_if_done()
        self.connection.wake()

    def _settle(self, held: int) -> None:
        if not self.ended:
            flow = self.connection.flow
            flow.settle(self, 0, held)
            if flow.wanting:
                flow.replenish()

    # -- replies out --------------------------------------------------------------------------------------------------

    def _reply(self, replies: bytes | tuple[bytes, ...]) -> None:
        if isinstance(replies, bytes):
            self.push(replies)
            return
        for reply in replies:
            self.push(reply)

    def push(self, message: bytes) -> None:
        """Send one message now, or as soon as the client's windows allow."""
        if self.ended:
            return
        connection = self.connection
        if not self.answered:
            self.answered = True
            announce = self.head.announce_gzip
            connection.send_headers(self.id, headers.RESPONSE_HEADERS_GZIP if announce else headers.RESPONSE_HEADERS)
        self._service.counters.messages_out += 1
        connection.sender.send(self, message)
        if not connection.receiving:
            connection.wake()

    def fail(self, status: int, message: str) -> None:
        """End the call with this status, after the replies already made."""
        self._end(headers.trailers(status, message) if self.answered else headers.trailers_only(status, message))

    def _finish_if_done(self) -> None:
        if not self.half_closed or self.ended or self._task is not None or self.pending is not None:
            return
        if self._reader is not None:
            if not self.connection.saturated:
                self.fail(headers.INTERNAL, "request stream ended inside a message")
            return
        self._end(headers.TRAILERS_OK if self.answered else headers.trailers_only(headers.OK, ""))

    def _end(self, block: bytes) -> None:
        if self.ended:
            return
        self.ended = True
        self._reader = None
        if self.held or self.granted:
            self.connection.flow.forget(self)
        if self.pending is not None:
            # What waits for windows may take long; the handler has nothing to do with that.
            self._stop()
        self.connection.end(self, block)
        self.connection.wake()

    def _handler_failed(self, error: BaseException) -> None:
        if isinstance(error, StreamError):
            self.fail(error.status, error.message)
            return
        self._service.counters.handler_errors += 1
        repeated.log(logging.ERROR, "failed", "stream handler failed", exc_info=error)
        self.fail(headers.INTERNAL, "internal error")

    def _deadline_exceeded(self) -> None:
        self._deadline = None
        if not self.ended:
            self._service.counters.deadlines_exceeded += 1
            self.fail(headers.DEADLINE_EXCEEDED, "deadline exceeded")

    # -- the end ------------------------------------------------------------------------------------------------------

    def terminated(self) -> None:
        """Close the handler; when its task still runs, as soon as that has ended."""
        self._reader = None
        self._stop()

    def _stop(self) -> None:
        if self._deadline is not None:
            self.cancel_deadline()
        if self._task is None:
            self._close_handler()
        elif self._in_task:
            self._in_task = 0
            self._service.counters.lingering += 1
            self._task.cancel()

    def _linger_over(self, task: asyncio.Task[Replies]) -> None:
        self._service.counters.lingering -= 1
        if not task.cancelled() and task.exception() is not None and not isinstance(task.exception(), StreamError):
            self._service.counters.handler_errors += 1
            repeated.log(
                logging.ERROR, "late", "stream handler failed after its stream had ended", exc_info=task.exception()
            )
        self._close_handler()

    def _close_handler(self) -> None:
        handler, self._handler = self._handler, None
        if handler is None:
            return
        try:
            handler.close()
        except Exception:
            self._service.counters.handler_errors += 1
            repeated.log(logging.ERROR, "close", "stream handler failed to close", exc_info=True)
