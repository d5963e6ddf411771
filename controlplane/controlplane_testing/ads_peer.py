"""A client of one xDS stream that keeps what it gets, and answers only when told to."""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2

from policy_control_plane.ads_stream import AdsStream, SotwStream
from policy_control_plane.resources import (
    CHAIN,
    CLUSTER,
    LISTENER,
    SHORT_NAMES,
    Snapshot,
    by_name,
    resource,
)

NODE = base_pb2.Node(id="envoy-1", cluster="edge")


def snapshot(**types: dict[str, str]) -> Snapshot:
    """Return a snapshot from short type names and name → content; types not given are empty."""
    return {
        type_url: by_name(resource(name, content.encode()) for name, content in types.get(short, {}).items())
        for type_url, short in SHORT_NAMES.items()
    }


class Peer:
    """A client of one stream that keeps what it gets, and answers only when told to."""

    def __init__(self, stream: AdsStream) -> None:
        self.stream = stream
        self.sotw = isinstance(stream, SotwStream)
        self.held: dict[str, dict[str, str]] = {}
        self.names: dict[str, list[str]] = {}
        self.versions: dict[str, str] = {}

    def subscribe(self, type_url: str, *names: str, **fields: Any) -> None:
        self.names[type_url] = list(names)
        if self.sotw:
            request = discovery_pb2.DiscoveryRequest(type_url=type_url, resource_names=names, node=NODE, **fields)
        else:
            request = discovery_pb2.DeltaDiscoveryRequest(
                type_url=type_url, resource_names_subscribe=names, node=NODE, **fields
            )
        self.stream.receive(request)

    def take(self) -> Any:
        """Return the next response after taking in its content, or None."""
        response = self.stream.next_response()
        if response is None:
            return None
        held = self.held.setdefault(response.type_url, {})
        if self.sotw:
            if response.type_url in (CHAIN, CLUSTER, LISTENER):
                held.clear()
            # The test's resources carry their name in front, as `by_name` cannot be seen from the bytes.
            held.update({one.value.decode(): one.value.decode() for one in response.resources})
        else:
            held.update({one.name: one.resource.value.decode() for one in response.resources})
            for name in response.removed_resources:
                held.pop(name, None)
        return response

    def answer(self, response: Any, error: str | None = None) -> None:
        detail = {} if error is None else {"error_detail": status_pb2.Status(code=3, message=error)}
        if self.sotw:
            version = response.version_info if error is None else self.versions.get(response.type_url, "")
            self.versions[response.type_url] = version
            request = discovery_pb2.DiscoveryRequest(
                type_url=response.type_url,
                resource_names=self.names[response.type_url],
                version_info=version,
                response_nonce=response.nonce,
                **detail,
            )
        else:
            request = discovery_pb2.DeltaDiscoveryRequest(
                type_url=response.type_url, response_nonce=response.nonce, **detail
            )
        self.stream.receive(request)

    def drain(self) -> list[str]:
        """Acknowledge everything there is; return the short names of the types in order."""
        order = []
        while (response := self.take()) is not None:
            order.append(SHORT_NAMES[response.type_url])
            self.answer(response)
        return order
