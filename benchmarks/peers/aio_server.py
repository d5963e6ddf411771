"""A grpc.aio ext_proc server as the gRPC tutorial writes one: generated stubs, an async generator, default options."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as stubs
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse

from benchmarks.peers.answers import answer


class ExternalProcessor(stubs.ExternalProcessorServicer):  # type: ignore[misc] # the stubs have no types
    """The service."""

    async def Process(
        self, request_iterator: AsyncIterator[ProcessingRequest], context: object
    ) -> AsyncIterator[ProcessingResponse]:
        """Answer each message of the stream."""
        async for request in request_iterator:
            yield answer(request)


async def serve() -> None:
    """Serve on a free port of 127.0.0.1, print it, and go on until killed."""
    server = grpc.aio.server()
    stubs.add_ExternalProcessorServicer_to_server(ExternalProcessor(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve())
