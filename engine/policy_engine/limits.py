"""The limits of the engine as they are unless the settings say otherwise, each stated here and nowhere else.

A separate module below all layers because settings, kernel, transport, workers and the control plane mean the same
numbers and must not import each other for them. Sizes are in bytes, times in seconds. A bound of one module alone (how
deep a document may nest) stands in that module.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

BODY_LIMIT: Final = 10 * MIB
"""Largest body of a request or response, also when decompressed (R-09)."""

HEADER_COUNT: Final = 200
"""Headers of one request or response."""

HEADER_SIZE: Final = 128 * KIB
"""Names and values of all headers of one request or response."""

LARGEST_HEADERS: Final = 8 * MIB
"""The most that `HEADER_SIZE` can be set to: what Envoy itself can be told to take (`max_request_headers_kb`)."""

MESSAGE_OVERHEAD: Final = MIB
"""What a `ProcessingRequest` may add to the body or the headers in it."""

RECEIVE_BUFFER: Final = 256 * MIB
"""Shared by the long messages of all connections of a worker process."""

STREAMS: Final = 20_000
"""Streams open at once in one worker process: more than the 10,000 requests in flight that it must carry (R-14)."""

ENVOY_STREAMS_PER_CONNECTION: Final = 16_384
"""What the Envoy configurations made here let Envoy open on one connection to the engine."""

CONNECTIONS: Final = 1024
"""Connections to one worker process."""

ACCEPT_BACKLOG: Final = 1024
"""Connections that wait to be accepted."""

POLICY_TIMEOUT: Final = 1.0
"""Of a policy whose chain entry has none (R-12)."""

LONGEST_POLICY_TIMEOUT: Final = 3600.0

CONSTRUCTION_SECONDS: Final = 10.0
"""How long a policy's constructor may take."""

WORKER_SECONDS: Final = 5.0
"""Without a sign of life for so long, a worker process is replaced."""

BLOCKING_THREADS: Final = 8
"""Threads for each blocking policy version."""

OFFLOAD_PROCESSES: Final = 2
"""Helper processes of one worker process, for work that grows with a body."""

OFFLOAD_WAITING: Final = 64
"""Calls that may wait for a helper process of one worker process."""

TOP_ROUTES: Final = 100
"""Routes that metrics name: with three policies each they are some 5,000 lines."""

FILE_SETTLE_SECONDS: Final = 2.0
"""How long a configuration file that did not come whole has to be left alone before it is believed to be complete."""
