"""A request keeps the snapshot it began with, under 50 swaps a second (R-20).

The kernel runs in this process, behind its own transport and a real Envoy: through the chain file, changes that follow
each other so closely are taken together (`runtime_limits_test` has that way too).
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from pathlib import Path

from integration.harness.client import Reply
from integration.harness.envoy import EnvoyProcess
from integration.harness.envoy_config import Bootstrap, Route
from integration.harness.exchange import Answer, Received
from integration.harness.load import Load
from integration.harness.upstream import Upstream
from policy_engine.sdk import Parameters, Policy, Request, RequestMutation, Response, ResponseMutation
from policy_engine.transport.native.server import NativeServer
from policy_engine.transport.options import ServerOptions
from testsupport.chains import Engine, chains, engine, entry

SWAPS_PER_S = 50
SWAPS = SWAPS_PER_S * 3


class Mark(Policy):
    """Leaves its snapshot's mark in every phase, and notes when it is closed while requests still use it."""

    used_after_close = 0

    def __init__(self, parameters: Parameters) -> None:
        self._mark: str = parameters["mark"]
        self._closed = False

    def on_request_headers(self, request: Request) -> RequestMutation:
        return RequestMutation(append_headers=[("x-mark", self._leave())])

    def on_request_body(self, request: Request) -> RequestMutation:
        return RequestMutation(body=self._leave().encode())

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation:
        return ResponseMutation(append_headers=[("x-mark", self._leave())])

    def on_response_body(self, request: Request, response: Response) -> ResponseMutation:
        return ResponseMutation(body=self._leave().encode())

    def close(self) -> None:
        self._closed = True

    def _leave(self) -> str:
        Mark.used_after_close += self._closed
        return self._mark


def test_request_sees_one_snapshot_from_its_first_to_its_last_phase() -> None:
    made = engine(entry(Mark, parameters={"mark": "0"}), classes=[Mark])
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as name, Upstream() as upstream:
        upstream.answer_with(_slowly)
        address = Path(name) / "engine.sock"
        bootstrap = Bootstrap(
            routes=[Route(prefix="/", name="r")], engine=address, upstream_port=upstream.port, upstream_http2=True
        )
        done = threading.Event()
        with EnvoyProcess(bootstrap, Path(name)) as proxy:
            worker = threading.Thread(target=asyncio.run, args=(_serve_and_swap(made, address, done),))
            worker.start()
            try:
                port = proxy.ready().port
                with Load(port, lambda connection: connection.send("POST", "/", body=b"client"), _marks) as load:
                    while worker.is_alive() and made.kernel.statistics.swaps <= SWAPS:
                        worker.join(0.02)
                outcomes = load.outcomes
            finally:
                done.set()
                worker.join()
    marks = [outcome.split() for outcome in outcomes]
    assert all(status == "200" and len(seen) == 4 and len(set(seen)) == 1 for status, *seen in marks), outcomes
    assert len(marks) > 20, outcomes
    assert (Mark.used_after_close, made.kernel.statistics.active) == (0, 0)


async def _serve_and_swap(made: Engine, address: Path, done: threading.Event) -> None:
    """Serve, swap until the count is reached, and serve on until nobody asks any more."""
    server = NativeServer(made.session, ServerOptions(bind=(f"unix:{address}",)))
    await server.start()
    for number in range(1, SWAPS + 1):
        await asyncio.sleep(1 / SWAPS_PER_S)
        made.activate(chains(r=[entry(Mark, parameters={"mark": str(number)})]))
    await asyncio.to_thread(done.wait)
    await server.drain(5)
    await server.close()


def _slowly(request: Received) -> Answer:
    sent = ",".join([*request.values("x-mark"), request.body.decode()])
    return Answer(headers=[("x-sent", sent)], chunks=[b"upstream"], delay_s=0.03)


def _marks(reply: Reply) -> str:
    sent = (reply.header("x-sent") or "").split(",")
    return " ".join([str(reply.status), *sent, *reply.values("x-mark"), reply.body.decode()])
