"""From the settings of an engine to a running xDS client.

A separate module because the client itself should know neither the settings file nor how chains are validated.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from policy_engine.settings.model import XdsSettings
from policy_engine.sources.chain_reader import ChainReader
from policy_engine.sources.source import Apply, Report
from policy_engine.sources.xds.channel import TlsFiles, XdsConnection
from policy_engine.sources.xds.protocol import Variant
from policy_engine.sources.xds.source import ReadRoute, XdsSource
from policy_engine.worker.chains.spec import RouteSpec


def xds_source(settings: XdsSettings, reader: ChainReader, apply: Apply, report: Report) -> XdsSource:
    """Return the source that `settings` describe; raises ValueError when they name no server."""
    return XdsSource(xds_connection(settings), route_reader(reader), apply, report)


def xds_connection(settings: XdsSettings) -> XdsConnection:
    """Return how to reach the management server."""
    if settings.server is None:
        raise ValueError("xds.server is not set")
    tls = settings.tls
    return XdsConnection(
        addresses=(settings.server,),
        node_id=settings.node_id or socket.gethostname(),
        variant=Variant.DELTA if settings.delta else Variant.STATE_OF_THE_WORLD,
        tls=None if tls.ca is None else TlsFiles(tls.ca, tls.cert, tls.key),
        saved=settings.last_known_good,
    )


def route_reader(reader: ChainReader) -> ReadRoute:
    """Return the check of one chain: the very one that a chain file goes through."""

    def read(document: Mapping[str, Any]) -> RouteSpec:
        name = str(document["route_key"])
        loaded = reader.read_route(name, document)
        if loaded.chains is None:
            raise ValueError("; ".join(f"{one.path}: {one.message}" for one in loaded.diagnostics))
        return loaded.chains.routes[0]

    return read
