"""The upstream: an Envoy that answers by itself, so that no slow server behind the proxy is what is measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from integration.harness.envoy import ARGUMENTS, Envoy, admin_port_from, is_ready
from integration.harness.envoy_binary import envoy_binary
from integration.harness.processes import Process

_TYPE = "type.googleapis.com/envoy"
_MAX_BODY = 16 * 1024 * 1024


class UpstreamEnvoy(Process):
    """Answers 200 and two headers once it has the whole request, `delay_s` later. Speaks HTTP/1.1 and HTTP/2."""

    def __init__(self, directory: Path, *, delay_s: float = 0.0) -> None:
        directory.mkdir()
        self._admin_file = directory / "admin"
        config = directory / "envoy.yaml"
        config.write_text(yaml.safe_dump(_bootstrap(delay_s), sort_keys=False))
        own: list[str | Path] = ["-c", config, "--admin-address-path", self._admin_file]
        environment = {"PATH": os.environ.get("PATH", os.defpath)}
        argv: list[str | Path] = [envoy_binary(), *ARGUMENTS, *own]
        super().__init__("upstream", argv, log_path=directory / "log", env=environment)

    def ready(self) -> int:
        """Return its port once it serves."""
        self.wait_until(lambda: is_ready(admin_port_from(self._admin_file)), what="ready")
        return Envoy(admin_port_from(self._admin_file) or 0).port


def _bootstrap(delay_s: float) -> dict[str, Any]:
    # An answer before the end of the request would make Envoy close the connection.
    filters = [_filter("buffer", "buffer.v3.Buffer", max_request_bytes=_MAX_BODY)]
    if delay_s:
        delay = {"fixed_delay": f"{delay_s:g}s", "percentage": {"numerator": 100}}
        filters.append(_filter("fault", "fault.v3.HTTPFault", delay=delay, max_active_faults=1_000_000))
    answer = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": '{"orders": []}\n'}},
        "response_headers_to_add": [{"header": {"key": "content-type", "value": "application/json"}}],
    }
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "upstream",
        "generate_request_id": False,
        "http2_protocol_options": {
            "max_concurrent_streams": 16_384,
            "max_outbound_frames": 100_000,
            "max_outbound_control_frames": 100_000,
        },
        "http_filters": [*filters, _filter("router", "router.v3.Router")],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [answer]}]},
    }
    listener = {
        "name": "upstream",
        "address": _address(),
        "per_connection_buffer_limit_bytes": _MAX_BODY,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    return {"admin": {"address": _address()}, "static_resources": {"listeners": [listener]}}


def _filter(name: str, kind: str, **settings: Any) -> dict[str, Any]:
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.{kind}", **settings},
    }


def _address() -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
