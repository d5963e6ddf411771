"""Tells answers of Envoy's own from the upstream's, by an attribute that Envoy's configuration has to ask for.

`response.code_details` is `via_upstream` for what the upstream sent, and why Envoy answered for what it made itself
(envoy/stream_info/stream_info.h, `ResponseCodeDetailValues`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from policy_engine.kernel.route_key import attribute
from policy_engine.sdk import ResponseOrigin

RESPONSE_DETAILS = "response.code_details"
"""To be among `response_attributes` of the filter."""

_VIA_UPSTREAM = "via_upstream"


def origin_of(message: Any) -> ResponseOrigin | Callable[[], ResponseOrigin]:
    """Return where the response came from whose headers `message` (a `ProcessingRequest`) holds, or what will tell.

    Without the attribute all come from upstream.
    """
    if not message.attributes:
        return "upstream"
    return partial(_told, message)


def _told(message: Any) -> ResponseOrigin:
    return "upstream" if attribute(message, RESPONSE_DETAILS) in ("", _VIA_UPSTREAM) else "envoy"
