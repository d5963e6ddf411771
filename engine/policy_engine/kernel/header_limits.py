"""Limits on the headers of one request or response (R-09): what is over them, and how it is refused and named.

Apart from `session`, which of most messages looks at nothing but their length.
"""

from __future__ import annotations

import logging
from typing import Any

from policy_engine.kernel.kernel import Kernel
from policy_engine.kernel.reply import immediate_reply
from policy_engine.kernel.routes import Route
from policy_engine.sdk import ImmediateResponse

logger = logging.getLogger("policy_engine.kernel")

_REFUSALS = {
    part: immediate_reply(ImmediateResponse(status, details="policy_engine:headers_too_large"))
    for part, status in (("request_headers", 431), ("response_headers", 502))
}


def refusal(kernel: Kernel, route: Route, part: str, header_map: Any, size: int) -> bytes | None:
    """Return the answer to headers over a limit, None when they are within both; `size` is that of their message."""
    options, pairs = kernel.options, header_map.headers
    count = len(pairs)
    if count <= options.header_count and size <= options.header_size:
        return None
    size = sum(len(one.key) + len(one.raw_value or one.value.encode()) for one in pairs)
    if count <= options.header_count and size <= options.header_size:
        return None
    kernel.statistics.headers_too_large[part] = kernel.statistics.headers_too_large.get(part, 0) + 1
    if f"{part} too large" not in route.warned:
        route.warned.add(f"{part} too large")
        logger.warning(
            "%s of route %s refused: %d headers of %d bytes, limits are %d (limits.header_count) and %d "
            "(limits.header_size); named once for this route, metrics count the rest",
            part,
            route.chain.route_key,
            count,
            size,
            options.header_count,
            options.header_size,
            extra={"event": "headers_too_large", "route": route.chain.route_key},
        )
    return _REFUSALS[part]
