"""Envoy's header maps as policies see them.

Apart from the phases because the session needs the first view before there is a chain to run.
"""

from __future__ import annotations

from typing import Any

from policy_engine.sdk import Headers


def headers_of(header_map: Any) -> Headers:
    """Return the lazy view of an Envoy `HeaderMap`; Envoy sends `raw_value`, older versions `value`."""
    pairs = header_map.headers

    def load() -> dict[str, list[bytes]]:
        # Envoy sends every name in lower case (external_processor.proto, HttpHeaders).
        index = {one.key: [one.raw_value or one.value.encode()] for one in pairs}
        if len(index) != len(pairs):
            index = {}
            for one in pairs:
                index.setdefault(one.key, []).append(one.raw_value or one.value.encode())
        return index

    return Headers.lazy(load)
