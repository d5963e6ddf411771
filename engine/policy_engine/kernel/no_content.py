"""Responses that have no content, whatever the upstream sent or a policy made of it (RFC 9110, 6.4.1).

Apart from the phases because headers and body are replaced alike: a client reads no content after these headers, and
takes what comes all the same for the beginning of its next response.
"""

from __future__ import annotations

from policy_engine.sdk import Request, Response
from policy_engine.sdk.headers import HeaderEdit
from policy_engine.sdk.statuses import WITHOUT_CONTENT
from policy_engine.worker.chains.executor import Exchange

NO_FRAMING = HeaderEdit(("content-length", "transfer-encoding"))
"""Takes away what announces content."""

_NO_BODY_STATUSES = (204, 304)


def without_content(exchange: Exchange, view: Request | Response) -> bool:
    """Return whether `view` is a response that has no content, by its status now or its request's method."""
    if view is not exchange.response:
        return False
    return exchange.request.method == "HEAD" or view.status in WITHOUT_CONTENT


def can_have_body(request: Request, response: Response) -> bool:
    """Return whether policies of bodies have something to look at in this response, be it empty."""
    return request.method != "HEAD" and response.status not in _NO_BODY_STATUSES and response.status >= 200
