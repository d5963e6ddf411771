"""What one request costs in the engine itself: frames in, policies, frames out, in one process and without a socket.

Envoy, the kernel of the machine and the client are left out, so that a change of a microsecond shows. Chains are
measured in interleaved rounds (A B A B …); the frames are those of Envoy 1.36 for a GET with fourteen headers.

    PYTHONPATH=.:engine:policies/shared python -m benchmarks.request_path --rounds 5
    PYTHONPATH=.:engine:policies/shared python -m benchmarks.request_path --chains five --profile
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import gc
import pstats
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.run.envoy_stream import FRAME, opening
from policy_engine.explain.recorder import Recorder
from policy_engine.kernel.kernel import Kernel
from policy_engine.sources.chain_file import load_chain_paths
from policy_engine.sources.chain_reader import ChainReader
from policy_engine.transport.health import Health
from policy_engine.transport.native.connection import Connection
from policy_engine.transport.native.dispatch import Dispatcher
from policy_engine.transport.native.frames import PREFACE
from policy_engine.transport.options import Limits
from policy_engine.worker.chains.compiled import Snapshot
from policy_engine.worker.chains.compiler import Compiler
from policy_engine.worker.policies.loader import load_policies
from testsupport.envoy_messages import request_headers, response_headers

POLICIES = Path(__file__).resolve().parent.parent / "policies"

# The key of the measured client is "k"; only its hash is in the chain.
_KEY_HASH = "8254c329a92850f6d539dd376f4816ee2764517da5e0235514af433164480d7a"
_SET_HEADER = "{name: set-header, version: v1.0.0, parameters: {request: {set: {x-a: b}}}}"
_CONDITION = (
    '{name: set-header, version: v1.0.0, condition: \'request.path.startsWith("/api") && request.method == "GET"\', '
    "parameters: {request: {set: {x-api: b}}}}"
)
_API_KEY = f"{{name: api-key-validation, version: v1.0.0, parameters: {{keys: [{{client: c, sha256: {_KEY_HASH}}}]}}}}"
_SECURITY = "{name: security-headers, version: v1.0.0, parameters: {}}"
_REQUEST_ID = "{name: request-id, version: v1.0.0, parameters: {accept_incoming: false}}"
_AUTHORIZE = (
    "{name: authorize, version: v1.0.0, parameters: {rules: ["
    "{name: tier, action: allow, when: 'metadata.api_key.client == \"d\"'}, "
    "{name: posts, action: deny, when: 'request.method == \"POST\"'}, "
    "{name: api, action: allow, when: 'request.path.startsWith(\"/api\")'}]}}"
)
_FIVE = (_SET_HEADER, _API_KEY, _CONDITION, _SECURITY, _REQUEST_ID)
CHAINS: dict[str, Sequence[str]] = {
    "none": (),
    "one": (_SET_HEADER,),
    "five": _FIVE,
    "authorize": (_API_KEY, _AUTHORIZE),
    "redirect": ("{name: redirect, version: v1.0.0, parameters: {scheme: https}}",),
    "csrf": ("{name: csrf, version: v1.0.0}",),
    "keys": (_API_KEY.replace("v1.0.0", "v2.0.0"),),
    "set-cel": ("{name: set-header, version: v1.1.0, parameters: {request: {set: {x-a: {cel: request.path}}}}}",),
    "concurrency": ("{name: concurrency-limit, version: v1.0.0, parameters: {limit: 100, key: request.host}}",),
    "llm-budget": ("{name: llm-budget, version: v1.0.0, parameters: {budgets: [{name: a, amount: 1, window: day}]}}",),
    "llm-router": ("{name: llm-router, version: v1.0.0, parameters: {routes: [{model: a, targets: [{backend: b}]}]}}",),
    "llm-translate": ("{name: llm-translate, version: v1.0.0, parameters: {upstream: anthropic}}",),
    "llm-usage": ("{name: llm-usage, version: v1.0.0}",),
    "mcp": ("{name: mcp-authorize, version: v1.0.0, parameters: {rules: [{name: a, action: allow, tools: [get_*]}]}}",),
    "mtls": ("{name: mtls-identity, version: v1.0.0}",),
    "ext-auth": (
        "{name: ext-auth, version: v1.0.0, parameters: {server: {url: SERVER}, cache: {key: request.path, ttl: 1h}}}",
    ),
    "backend-auth": (
        "{name: backend-auth, version: v1.0.0, parameters: {client_credentials: {endpoint: {url: SERVER}, "
        "client: {id: a, secret: b}}}}",
    ),
    "introspection": (
        "{name: token-introspection, version: v1.0.0, parameters: {endpoint: {url: SERVER}, cache_ttl: 1h, "
        "token: {header: x-api-key, prefix: ''}}}",
    ),
    "ten": (*_FIVE, *_FIVE[:1], *_FIVE[2:], _SET_HEADER),
}

# What the server says that policies ask; its URL stands in a chain as SERVER.
_SAID = b'{"active": true, "sub": "c", "result": true, "access_token": "t", "token_type": "bearer", "expires_in": 3600}'

_HANDSHAKE = (
    PREFACE
    + FRAME.pack(6 << 8 | 4, 0, 0)
    + struct.pack(">HI", 4, 2**28)
    + FRAME.pack(4 << 8 | 8, 0, 0)
    + struct.pack(">I", 2**31 - 1 - 65535)
    + FRAME.pack(4, 1, 0)
)
_HEADERS = (
    ("user-agent", "curl/8.5.0"),
    ("accept", "*/*"),
    ("accept-encoding", "gzip, deflate"),
    ("cookie", "session=0123456789abcdef0123456789abcdef"),
    ("x-api-key", "k"),
    ("x-forwarded-proto", "http"),
    ("x-forwarded-for", "10.0.0.1"),
    ("x-envoy-expected-rq-timeout-ms", "15000"),
    ("content-type", "application/json"),
    ("referer", "https://example.com/index.html"),
)
_RESPONSE = (("content-type", "application/json"), ("server", "envoy"), ("date", "Tue, 24 Nov 2026 08:00:00 GMT"))


def data(stream_id: int, message: bytes) -> bytes:
    """One message of a stream as Envoy frames it."""
    size = len(message) + 5
    return FRAME.pack(size << 8, 0, stream_id) + struct.pack(">BI", 0, len(message)) + message


class Engine:
    """A kernel on a native connection, fed with the frames of one Envoy."""

    def __init__(self, chain: Sequence[str], routes: int = 1, *, patterns: bool = False, server: str = "") -> None:
        self._routes = routes
        self._below = "/rule/0" if patterns else ""
        self._loop = asyncio.new_event_loop()
        self._kernel = Kernel()
        self._kernel.activate(
            _snapshot([one.replace("SERVER", server) for one in chain], routes, "/*" if patterns else "")
        )
        self._dispatcher = Dispatcher(Recorder(self._kernel).handler, Health(), Limits(), self._loop)
        self._wants_response = bool(chain) and _SECURITY in chain
        self._connect()
        if any("SERVER" in one for one in chain):
            # What the server says of the one request there is, is remembered before anything is measured.
            for read in self.batches(1, 1):
                self.serve([read])
                self._loop.run_until_complete(asyncio.sleep(1))

    def _connect(self) -> None:
        self._connection = Connection(self._dispatcher, lambda: None, self._take_output)
        self._connection.receive(_HANDSHAKE)
        self._connection.take_output()
        self._next_id = 1

    def _take_output(self) -> None:
        self._connection.take_output()

    def batches(self, streams: int, width: int) -> list[bytes]:
        """Return what the engine reads, `width` streams in each read: requests, then responses, then their ends."""
        requests = [
            request_headers(
                f"r{number}{self._below}",
                _HEADERS,
                path="/api/orders/17?page=2",
                attributes={"source.address": "10.0.0.1:5000"},
            )
            for number in range(self._routes)
        ]
        response = response_headers(200, _RESPONSE)
        reads = []
        for _ in range(streams // width):
            ids = [self._next_id + 2 * one for one in range(width)]
            self._next_id += 2 * width
            reads.append(b"".join(opening(one) + data(one, requests[one // 2 % self._routes]) for one in ids))
            if self._wants_response:
                reads.append(b"".join(data(one, response) for one in ids))
            reads.append(b"".join(FRAME.pack(0, 1, one) + FRAME.pack(4 << 8 | 3, 0, one) + b"\0\0\0\0" for one in ids))
        return reads

    def serve(self, reads: Sequence[bytes]) -> None:
        """Take each read and make the write that answers it."""
        connection = self._connection
        for read in reads:
            connection.receive(read)
            connection.take_output()
            connection.sender.window = 2**30

    def check(self) -> None:
        """Refuse to have measured a connection that failed."""
        statistics_ = self._kernel.statistics
        if self._connection.finished or statistics_.immediate or statistics_.active:
            raise RuntimeError(f"the engine did not serve what it was sent: {statistics_}")


@contextlib.contextmanager
def _server() -> Iterator[str]:
    """Serve what policies ask on a free port of loopback; the value is the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", "0")))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(_SAID)

        do_POST = do_GET  # the name http.server looks for

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def _snapshot(chain: Sequence[str], routes: int, stars: str) -> Snapshot:
    registry = load_policies(POLICIES)
    reader = ChainReader(registry)
    listed = "".join(f"  - {entry}\n" for entry in chain)
    policies = f"  policies:{' []' if not chain else ''}\n{listed}"
    route = "version: v1\nroutes:\n" + "".join(f"- route_key: r{number}{stars}\n{policies}" for number in range(routes))
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(route)
        file.flush()
        loaded = load_chain_paths([Path(file.name)], reader)
    if loaded.chains is None:
        raise SystemExit("\n".join(map(str, loaded.diagnostics)))
    return Compiler(registry).compile(loaded.chains)


def cpu_per_stream(engine: Engine, streams: int, width: int) -> float:
    """Return the CPU time in microseconds that the engine takes for each stream."""
    reads = engine.batches(streams, width)
    gc.collect()
    began = time.process_time()
    engine.serve(reads)
    found = (time.process_time() - began) / streams * 1e6
    engine.check()
    return found


def main() -> None:
    """Measure the chosen chains and print medians with their spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", nargs="+", choices=CHAINS, default=list(CHAINS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=4_000, help="per round")
    parser.add_argument("--routes", type=int, nargs="+", default=[1], help="each chain for so many routes, in turn")
    parser.add_argument("--patterns", action="store_true", help="the keys of the routes are patterns, r1/*")
    parser.add_argument("--width", type=int, default=16, help="streams whose frames come in one read")
    parser.add_argument("--profile", action="store_true", help="print where the time goes, of the last chain")
    options = parser.parse_args()
    with _server() as server:
        engines = {
            name if count == 1 else f"{name} on {count} routes": Engine(
                CHAINS[name], count, patterns=options.patterns, server=server
            )
            for name in options.chains
            for count in options.routes
        }
    costs: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(options.rounds + 1):
        for name, engine in engines.items():
            costs[name].append(cpu_per_stream(engine, options.streams, options.width))
    for name, found in costs.items():
        kept = found[1:]  # the first round fills caches
        print(f"{name:20} {statistics.median(kept):7.2f} us a stream   {min(kept):.2f} to {max(kept):.2f}")
    if options.profile:
        reads = engine.batches(options.streams, options.width)
        profiler = cProfile.Profile()
        profiler.runcall(engine.serve, reads)
        pstats.Stats(profiler, stream=sys.stdout).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    main()
