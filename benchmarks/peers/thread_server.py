"""A grpc ext_proc server with a thread pool, as the gRPC tutorial writes one: a thread for each stream in flight."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as stubs
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse

from benchmarks.peers.answers import answer

_THREADS = 128
"""The tutorial has 10; a stream holds its thread until the response has passed, so that 64 connections need more."""


class ExternalProcessor(stubs.ExternalProcessorServicer):  # type: ignore[misc] # the stubs have no types
    """The service."""

    def Process(self, request_iterator: Iterator[ProcessingRequest], context: object) -> Iterator[ProcessingResponse]:
        """Answer each message of the stream."""
        for request in request_iterator:
            yield answer(request)


def serve() -> None:
    """Serve on a free port of 127.0.0.1, print it, and go on until killed."""
    server = grpc.server(ThreadPoolExecutor(max_workers=_THREADS))
    stubs.add_ExternalProcessorServicer_to_server(ExternalProcessor(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    serve()
