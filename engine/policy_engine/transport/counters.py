"""What a transport counts. Plain integers that the event loop alone changes, so that counting costs next to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class CountersSnapshot:
    """Values at one moment. Only the `*_active` ones can fall."""

    connections_active: int
    connections_total: int
    connections_refused: Mapping[str, int]
    """By reason: `limit`, `handshake`, `tls`, `alpn`, `client_name`; `made_place` for idle ones closed for others."""
    streams_active: int
    streams_total: int
    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    resets_received: int
    resets_sent: int
    goaways_received: int
    goaways_sent: int
    handler_errors: int
    deadlines_exceeded: int
    lingering: int
    protocol_errors: Mapping[str, int]
    """By HTTP/2 error code name (RFC 9113 §7), for example `FLOW_CONTROL_ERROR`."""


@dataclass(slots=True)
class Counters:
    """The counters of one server; `snapshot` is what metrics read."""

    connections_active: int = 0
    connections_total: int = 0
    connections_refused: dict[str, int] = field(default_factory=dict)
    streams_active: int = 0
    streams_total: int = 0
    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    resets_received: int = 0
    resets_sent: int = 0
    goaways_received: int = 0
    goaways_sent: int = 0
    handler_errors: int = 0
    deadlines_exceeded: int = 0
    lingering: int = 0
    """Tasks of streams that are gone but have not ended yet; they count as streams."""
    protocol_errors: dict[str, int] = field(default_factory=dict)

    def refuse(self, reason: str) -> None:
        """Count a connection that was not taken, or closed for another."""
        self.connections_refused[reason] = self.connections_refused.get(reason, 0) + 1

    def protocol_error(self, code: str) -> None:
        """Count one violation by a peer under the name of its error code."""
        self.protocol_errors[code] = self.protocol_errors.get(code, 0) + 1

    def snapshot(self) -> CountersSnapshot:
        """Return the present values, detached from later changes."""
        values = {name: getattr(self, name) for name in CountersSnapshot.__slots__}
        detached = {name: MappingProxyType(dict(one)) for name, one in values.items() if isinstance(one, dict)}
        return CountersSnapshot(**{**values, **detached})
