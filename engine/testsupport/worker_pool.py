"""Worker processes under a pool, with a policy that does what its parameter says, and a way to ask each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from policy_engine.processes.channel import Message
from policy_engine.processes.pool import WorkerPool
from policy_engine.processes.serving import WorkerOptions
from policy_engine.worker.chains.spec import ChainsSpec, PolicySpec, RouteSpec
from testsupport.envoy_messages import parse, request_headers

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

MANIFEST = """
name: tag
version: v1.0.0
description: Sets a header to a value from the chain.
entrypoint: policy:Tag
phases: [request_headers, response_headers]
parameters:
  type: object
  additionalProperties: false
  properties: {value: {type: string}}
"""
CODE = """
import collections
import itertools
import os
import pathlib
import signal
import socket
from policy_engine.sdk import ParameterError, Policy, RequestMutation, ResponseMutation

DEADLY = pathlib.Path(__file__).with_name("deadly")

class Tag(Policy):
    def __init__(self, parameters):
        if parameters["value"] == "refuse":
            raise ParameterError("not this one", "/value")
        if parameters["value"] == "hang":
            mine, self.theirs = socket.socketpair()
            mine.recv(1)
        if DEADLY.exists() or parameters["value"] == "die":
            os._exit(3)
        if parameters["value"] == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        self.value = parameters["value"]

    def on_request_headers(self, request):
        if self.value == "hold":
            collections.deque(itertools.repeat(0), maxlen=0)  # a loop in C that looks at no signal
        return RequestMutation(set_headers={"x-tag": self.value, "x-pid": str(os.getpid())})

    def on_response_headers(self, request, response):
        return ResponseMutation(set_headers={"x-tag": self.value})
"""


def spec(value: str) -> ChainsSpec:
    return ChainsSpec((RouteSpec("r", (PolicySpec("tag", "v1", parameters={"value": value}),)),))


@asynccontextmanager
async def pool_of(
    directory: Path,
    count: int = 2,
    changed: Callable[[], None] = lambda: None,
    transport: str = "native",
    socket: str = "w{worker}.sock",
    tracing: str = "",
    worker_timeout: float = 5.0,
    listen: str = "",
    told: Callable[[Message], None] = lambda message: None,
    metrics: tuple[str, int] = ("policy", 50),
) -> AsyncIterator[WorkerPool]:
    policy = directory / "policies" / "tag" / "v1_0_0"
    policy.mkdir(parents=True, exist_ok=True)
    (policy / "policy.yaml").write_text(MANIFEST)
    (policy / "policy.py").write_text(CODE)
    options = WorkerOptions(
        number=0,
        bind=tuple((listen or f"unix:{directory}/{socket}").split(",")),
        transport=transport,
        policies=str(directory / "policies"),
        route_key=("route_name",),
        pass_unmapped=False,
        body_limit=1 << 20,
        drain_seconds=5.0,
        blocking_threads=2,
        log_level="warning",
        log_format="text",
        tracing_endpoint=tracing,
        construction_seconds=2.0,
        worker_timeout=worker_timeout,
        metrics_detail=metrics[0],
        metrics_top_routes=metrics[1],
    )
    pool = WorkerPool(count, options, changed, told)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.drain(5.0)


@asynccontextmanager
async def stream_to(directory: Path, worker: int) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"unix:{directory}/w{worker}.sock") as channel:
        process: Any = channel.stream_stream(PROCESS, None, None)
        yield process(wait_for_ready=True, timeout=20)


def tag_of(reply: Any, side: str = "request_headers") -> dict[str, str]:
    mutation = getattr(parse(reply), side).response.header_mutation
    return {one.header.key: one.header.raw_value.decode() for one in mutation.set_headers}


async def ask(directory: Path, worker: int) -> dict[str, str]:
    async with stream_to(directory, worker) as stream:
        await stream.write(request_headers())
        return tag_of(await stream.read())


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - a test waits for another process
            await asyncio.sleep(0.02)
