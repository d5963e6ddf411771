"""How an Envoy that faces clients has to read requests: the settings that both generators write and the lint wants.

From Envoy's "Configuring Envoy as an edge proxy", as plain data in the words of Envoy's YAML. What the engine decides
by, paths, hosts and headers, must have one spelling before a route is chosen, and the same one for the upstream.
"""

from __future__ import annotations

from typing import Any, Final

_WINDOW: Final = 64 << 10
_CONNECTION_WINDOW: Final = 1 << 20

SPELLINGS: Final[dict[str, Any]] = {
    "use_remote_address": True,
    "normalize_path": True,
    "merge_slashes": True,
    "path_with_escaped_slashes_action": "REJECT_REQUEST",
    "strip_trailing_host_dot": True,
    "common_http_protocol_options": {"idle_timeout": "3600s", "headers_with_underscores_action": "REJECT_REQUEST"},
    "stream_idle_timeout": "300s",
    "request_timeout": "300s",
}
"""Fields of the HTTP connection manager."""

ANY_PORT: Final[dict[str, Any]] = {"ignore_port_in_host_matching": True}
"""Field of the route configuration: `api.example.com:8443` is the host `api.example.com`."""

FILTER_MODES: Final[dict[str, str]] = {
    "request_header_mode": "SEND",
    "response_header_mode": "SKIP",
    "request_body_mode": "NONE",
    "response_body_mode": "NONE",
    "request_trailer_mode": "SKIP",
    "response_trailer_mode": "SKIP",
}
"""The ext_proc filter's own `processing_mode`. Response headers are sent where a route or the engine asks for them:
with SEND here, the client never gets what Envoy itself answers to a request that it cannot read (400, 426, 431;
envoyproxy/envoy#29440)."""

NOT_FOUND: Final[dict[str, Any]] = {"match": {"prefix": "/"}, "direct_response": {"status": 404}}
"""The last route of a virtual host, with the filter off: it would be asked for a request without a route too."""


def http2_limits(buffer_limit: int) -> dict[str, int]:
    """Return the connection manager's `http2_protocol_options`; `buffer_limit` are the bytes that Envoy has to hold.

    The window bounds what Envoy holds of a stream, hence a window above a body that is needed whole (R-09).
    """
    window = max(_WINDOW, buffer_limit)
    return {
        "max_concurrent_streams": 100,
        "initial_stream_window_size": window,
        "initial_connection_window_size": max(_CONNECTION_WINDOW, window),
    }
