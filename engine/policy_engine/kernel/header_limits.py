"""Limits on the headers of one request or response (R-09): what is over them, and how it is refused and named.

Apart from `session`, which of most messages looks at nothing but their length.
"""

from __future__ import annotations

import logging
from typing import Any

from policy_engine.kernel.kernel import Kernel
from policy_engine.kernel.routes import Route
from policy_engine.sdk import Headers, ImmediateResponse
from policy_engine.sdk.repeated_lines import RepeatedLines

repeated = RepeatedLines(logging.getLogger("policy_engine.kernel"))

_REFUSALS = {
    part: ImmediateResponse(status, details="policy_engine:headers_too_large")
    for part, status in (("request_headers", 431), ("response_headers", 502))
}


def refusal(  # noqa: PLR0917 # one for each thing that is known of a message
    kernel: Kernel, route: Route, part: str, header_map: Any, size: int, request: Headers
) -> ImmediateResponse | None:
    """Return the answer to headers over a limit, None when they are within both; `size` is that of their message.

    `request` are the headers of the request, for the log.
    """
    options, pairs = kernel.options, header_map.headers
    count = len(pairs)
    if count <= options.header_count and size <= options.header_size:
        return None
    size = sum(len(one.key) + len(one.raw_value or one.value.encode()) for one in pairs)
    if count <= options.header_count and size <= options.header_size:
        return None
    kernel.statistics.headers_too_large[part] = kernel.statistics.headers_too_large.get(part, 0) + 1
    repeated.log(
        logging.WARNING,
        (part, route.chain.route_key),
        "%s of route %s refused: %d headers of %d bytes, limits are %d (limits.header_count) and %d "
        "(limits.header_size)",
        part,
        route.chain.route_key,
        count,
        size,
        options.header_count,
        options.header_size,
        extra={
            "event": "headers_too_large",
            "route": route.chain.route_key,
            "request_id": request.get("x-request-id") or "",
        },
    )
    return _REFUSALS[part]
