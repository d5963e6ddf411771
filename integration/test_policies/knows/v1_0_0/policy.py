"""A policy for the engine's own tests: tells the upstream what it knows of Envoy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from policy_engine.sdk import Policy, Request, RequestMutation


class Knows(Policy):
    """Writes attributes and metadata into request headers."""

    def on_request_headers(self, request: Request) -> RequestMutation:
        return RequestMutation(
            set_headers={
                "x-attributes": json.dumps(dict(request.attributes)),
                "x-metadata": json.dumps(_plain(request.envoy_metadata)),
            }
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value
