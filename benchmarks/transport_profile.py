"""What a transport alone costs: CPU time of its process per stream, with a handler that returns constant bytes.

Servers run one after the other in interleaved rounds (A B A B …) on loopback, each in a process of its own; a small
client keeps `--concurrency` streams open on one connection. Trust the ratios, not the absolute numbers.

    PYTHONPATH=.:engine python -m benchmarks.transport_profile --rounds 5
    PYTHONPATH=.:engine python -m benchmarks.transport_profile --servers native --rounds 1 --profile
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import multiprocessing
import pstats
import signal
import socket
import statistics
import struct
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe

from benchmarks.run.envoy_stream import FRAME, opening
from policy_engine.kernel.stream import Peer, Replies
from policy_engine.transport.grpc_server import GrpcServer
from policy_engine.transport.native.server import NativeServer
from policy_engine.transport.options import ServerOptions

# A ProcessingResponse that sets one header has about this size.
REPLY = b"\x0a\x2e" + b"r" * 46
SERVERS = {"native": NativeServer, "grpcio": GrpcServer}

_PREFACE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + FRAME.pack(12 << 8 | 4, 0, 0)
    + struct.pack(">HIHI", 4, 2**31 - 1, 5, 2**24 - 1)
    + FRAME.pack(4 << 8 | 8, 0, 0)
    + struct.pack(">I", 2**31 - 1 - 65535)
)


class ConstantHandler:
    """The cheapest handler there is."""

    def __init__(self, peer: Peer) -> None:
        del peer

    def receive(self, message: bytes) -> Replies:
        """Answer anything with the same bytes."""
        return REPLY

    def close(self) -> None:
        """Nothing to free."""


class AwaitingHandler(ConstantHandler):
    """Answers from a coroutine that has to wait once."""

    def receive(self, message: bytes) -> Replies:
        """Give the loop a turn first."""
        return self._answer()  # type: ignore[return-value] # the interface also allows a coroutine

    async def _answer(self) -> Replies:
        await asyncio.sleep(0)
        return REPLY


def serve(name: str, awaiting: bool, profile: bool, pipe: Pipe) -> None:
    """Run one server until SIGTERM; answers each message on the pipe with the CPU seconds used so far."""
    asyncio.run(_serve(name, awaiting, profile, pipe))


async def _serve(name: str, awaiting: bool, profile: bool, pipe: Pipe) -> None:
    server = SERVERS[name](AwaitingHandler if awaiting else ConstantHandler, ServerOptions(bind=("127.0.0.1:0",)))
    await server.start()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def answer() -> None:
        pipe.recv()
        pipe.send(time.process_time())

    loop.add_reader(pipe.fileno(), answer)
    pipe.send(server.address)
    profiler = cProfile.Profile() if profile else None
    if profiler is not None:
        profiler.enable()
    await stop.wait()
    if profiler is not None:
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    await server.close()


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement: streams per second of wall time, and CPU of the server per stream in microseconds."""

    per_second: float
    cpu: float


class Load:
    """A client on one connection. It knows just enough HTTP/2 for a server that behaves."""

    def __init__(self, address: str, message: bytes) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(_PREFACE)
        self._payload = b"\0" + struct.pack(">I", len(message)) + message
        self._rest = b""
        self._next_id = 1
        self._window = 65_535
        self._stream_window = 65_535

    def run(self, streams: int, concurrency: int) -> float:
        """Have so many streams answered; returns the seconds it took."""
        begun = time.perf_counter()
        done = opened = 0
        while done < streams:
            ready = min(concurrency - (opened - done), streams - opened, max(0, self._window // len(self._payload)))
            if ready > 0:
                self._socket.sendall(b"".join([self._stream() for _ in range(ready)]))
                opened += ready
            done += self._read()
        return time.perf_counter() - begun

    def _stream(self) -> bytes:
        stream_id, payload = self._next_id, self._payload
        self._next_id += 2
        self._window -= len(payload)
        parts = [opening(stream_id)]
        for start in range(0, len(payload), 16_384):
            piece = payload[start : start + 16_384]
            ending = start + 16_384 >= len(payload)
            parts += (FRAME.pack(len(piece) << 8, 1 if ending else 0, stream_id), piece)
        return b"".join(parts)

    def _read(self) -> int:
        data = self._rest + self._socket.recv(1 << 18)
        position = done = 0
        while len(data) - position >= 9:
            word, flags, stream_id = FRAME.unpack_from(data, position)
            stop = position + 9 + (word >> 8)
            if stop > len(data):
                break
            kind = word & 0xFF
            if kind == 1 and flags & 1:
                done += 1
            elif kind == 8 and stream_id == 0:
                self._window += struct.unpack_from(">I", data, position + 9)[0]
            elif kind == 4 and not flags & 1:
                self._socket.sendall(FRAME.pack(4, 1, 0))
            elif kind == 6 and not flags & 1:
                self._socket.sendall(FRAME.pack(8 << 8 | 6, 1, 0) + data[position + 9 : stop])
            elif kind in (3, 7):
                raise RuntimeError(f"server sent frame type {kind}: {data[position:stop]!r}")
            position = stop
        self._rest = data[position:]
        return done

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def measure(pipe: Pipe, load: Load, streams: int, concurrency: int) -> Round:
    """Run the load once and read the server's CPU clock before and after."""
    pipe.send(None)
    before = pipe.recv()
    seconds = load.run(streams, concurrency)
    pipe.send(None)
    cpu = pipe.recv() - before
    return Round(streams / seconds, cpu / streams * 1e6)


def main() -> None:
    """Measure the chosen servers and print medians with their spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=20_000, help="per round")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--message", type=int, default=700, help="bytes of each request message")
    parser.add_argument("--awaiting", action="store_true", help="the handler answers from a coroutine that waits once")
    parser.add_argument("--profile", action="store_true", help="print a cProfile of each server process")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        loads = {}
        for name in arguments.servers:
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(name, arguments.awaiting, arguments.profile, there))
            process.start()
            stack.callback(process.join)
            stack.callback(process.terminate)
            load = Load(here.recv(), b"m" * arguments.message)
            stack.callback(load.close)
            loads[name] = here, load
            measure(here, load, 1000, arguments.concurrency)
        rounds: dict[str, list[Round]] = {name: [] for name in loads}
        for _ in range(arguments.rounds):
            for name, (pipe, load) in loads.items():
                rounds[name].append(measure(pipe, load, arguments.streams, arguments.concurrency))
    print(f"{arguments.streams} streams a round, {arguments.concurrency} at once, {arguments.message} bytes each")
    for name, results in rounds.items():
        cpu = [result.cpu for result in results]
        rate = [result.per_second for result in results]
        print(
            f"{name:8} {statistics.median(cpu):7.1f} µs CPU per stream ({min(cpu):.1f}-{max(cpu):.1f})"
            f"  {statistics.median(rate):9,.0f} streams/s ({min(rate):,.0f}-{max(rate):,.0f})"
        )


if __name__ == "__main__":
    main()
