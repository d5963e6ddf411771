"""The access log that generated configuration has: one JSON line for each request, with what the engine decided.

A separate module because both generators, the engine's and the control plane's, write the same. The path has no query
string: that is where clients put credentials.
"""

from __future__ import annotations

from typing import Any, Final

from policy_engine.kernel.reply import DECISION_NAMESPACE

FIELDS: Final[dict[str, str]] = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "authority": "%REQ(:AUTHORITY)%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "route": "%ROUTE_NAME%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "milliseconds": "%DURATION%",
    "upstream_host": "%UPSTREAM_HOST%",
    "traceparent": "%REQ(TRACEPARENT)%",
    "decision": f"%DYNAMIC_METADATA({DECISION_NAMESPACE}:decision)%",
    "policy": f"%DYNAMIC_METADATA({DECISION_NAMESPACE}:policy)%",
    "policy_version": f"%DYNAMIC_METADATA({DECISION_NAMESPACE}:policy_version)%",
    "reason": f"%DYNAMIC_METADATA({DECISION_NAMESPACE}:reason)%",
    "policy_milliseconds": f"%DYNAMIC_METADATA({DECISION_NAMESPACE}:milliseconds)%",
    "policies": f"%DYNAMIC_METADATA({DECISION_NAMESPACE}:policies)%",
}
"""What a line holds; `policies` are the milliseconds of each, of requests that the decision log samples."""

_TYPE: Final = "type.googleapis.com/envoy"


def access_log() -> list[dict[str, Any]]:
    """Return the `access_log` of an HTTP connection manager, to standard output."""
    formatter = {
        "name": "envoy.formatter.req_without_query",
        "typed_config": {"@type": f"{_TYPE}.extensions.formatter.req_without_query.v3.ReqWithoutQuery"},
    }
    return [
        {
            "name": "envoy.access_loggers.stdout",
            "typed_config": {
                "@type": f"{_TYPE}.extensions.access_loggers.stream.v3.StdoutAccessLog",
                "log_format": {"json_format": dict(FIELDS), "formatters": [formatter]},
            },
        }
    ]
