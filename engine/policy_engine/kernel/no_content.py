"""Responses that have no content, whatever the upstream sent or a policy made of it (RFC 9110, 6.4.1).

Apart from the phases because headers and body are replaced alike: a client reads no content after these headers, and
takes what comes all the same for the beginning of its next response.
"""

from __future__ import annotations

from policy_engine.kernel.phases import Phases
from policy_engine.sdk import Request, Response
from policy_engine.sdk.headers import HeaderEdit
from policy_engine.sdk.statuses import WITHOUT_CONTENT

NO_FRAMING = HeaderEdit(("content-length", "transfer-encoding"))
"""Takes away what announces content."""


def without_content(phases: Phases, view: Request | Response) -> bool:
    """Return whether `view` is a response that has no content, by its status now or its request's method."""
    if view is not phases.exchange.response:
        return False
    return phases.request.method == "HEAD" or view.status in WITHOUT_CONTENT
