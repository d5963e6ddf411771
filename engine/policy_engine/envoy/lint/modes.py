"""Which processing modes are in effect on a route, from the filter's and the route's own.

A separate module because filter and route checks read modes alike.
"""

from __future__ import annotations

from collections.abc import Iterable

from policy_engine.envoy.demands import Modes
from policy_engine.envoy.lint.proto_json import Node
from policy_engine.kernel.reply import ProcessingMode

STREAMING = ("STREAMED", "FULL_DUPLEX_STREAMED")

_HEADERS = {number: name for name, number in ProcessingMode.HeaderSendMode.items()}
_BODIES = {number: name for name, number in ProcessingMode.BodySendMode.items()}


def effective_modes(modes: Iterable[Node]) -> Modes:
    """Return the mode of every phase from the first `ProcessingMode` that is set, else Envoy's defaults.

    Envoy takes a `ProcessingMode` as a whole: what a more specific one leaves out is the default. `DEFAULT` means SEND
    for headers and SKIP for trailers (processing_mode.proto).
    """
    node = next((one for one in modes if one.exists), None)
    found = {}
    for field in ProcessingMode.DESCRIPTOR.fields:
        value = "NONE" if "_body_" in field.name else "DEFAULT"
        if node is not None:
            value = node.get(field.name).enum(_BODIES if "_body_" in field.name else _HEADERS, value)
        if value == "DEFAULT":
            value = "SKIP" if "_trailer_" in field.name else "SEND"
        found[field.name] = value
    return found
