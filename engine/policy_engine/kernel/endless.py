"""Messages whose bodies need not end before an answer comes: upgrades, tunnels and gRPC streams (R-18).

A separate module because it is decided at the headers, before anybody waits: a body that is asked for whole would be
waited for until an idle timeout ends the exchange (envoyproxy/envoy#47081).
"""

from __future__ import annotations

from policy_engine.sdk import ImmediateResponse, Request

_GRPC = "application/grpc"
_GRPC_UNIMPLEMENTED = 12

REFUSAL = ImmediateResponse(501, grpc_status=_GRPC_UNIMPLEMENTED, details="policy_engine:body_without_end")
"""The answer where policies that fail closed need the whole body (RFC 9110, 15.6.2)."""


def is_endless(request: Request) -> bool:
    """Return whether bodies of this exchange need not end: decided by its method and headers alone.

    An upgrade is what Envoy takes for one (source/common/http/utility.cc, `isUpgrade`); it lets no other through. An
    extended CONNECT (RFC 8441) comes here as one. gRPC says by its content type that messages may go on for ever,
    unless a `content-length` says otherwise.
    """
    headers = request.headers
    if request.method == "CONNECT" or headers.get(":protocol"):
        return True
    if "upgrade" in headers:
        tokens = ",".join(headers.get_all("connection")).lower().split(",")
        return "upgrade" in [token.strip() for token in tokens]
    return (headers.get("content-type") or "").lower().startswith(_GRPC) and "content-length" not in headers
