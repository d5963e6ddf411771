"""Envoy's listeners and the HTTP filters on them, written with `envoy-data-plane`'s types.

A separate module because a changed listener makes Envoy drain connections: what is in here should change seldom, so
nothing of a single route or chain is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from betterproto2 import Message
from envoy.extensions.access_loggers.stream.v3 import stream_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2, processing_mode_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.formatter.req_without_query.v3 import req_without_query_pb2
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    AggregatedConfigSource,
    ApiVersion,
    BackoffStrategy,
    ConfigSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    RetryPolicy,
    RetryPolicyRetryHostPredicate,
    SocketAddress,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    MetadataOptions,
    ProcessingMode,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate
from envoy_data_plane.google.protobuf import Any
from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import Message as ProtoMessage

from policy_control_plane.model import ListenerModel
from policy_engine.envoy.access_log import access_log
from policy_engine.envoy.demands import (
    LONGEST_MESSAGE_TIMEOUT,
    buffer_limit_for,
    message_timeout_for,
    request_attributes,
)
from policy_engine.envoy.edge import FILTER_MODES, SPELLINGS, http2_limits
from policy_engine.envoy.filter_config import ENGINE_CLUSTER, FILTER, RETRY_ON, metadata_options
from policy_engine.kernel.origin import RESPONSE_DETAILS
from policy_engine.kernel.route_key import ROUTE_NAME
from policy_engine.worker.chains.needs import NOTHING_ASKED, Asked

_SHORTEST_TIMEOUT: Final = 2.0
_POOL: Final = descriptor_pool.Default()
_PACKED: Final = (stream_pb2.StdoutAccessLog, req_without_query_pb2.ReqWithoutQuery)
"""Messages that the access log has packed: their modules have to be imported to be written."""


def over_ads() -> ConfigSource:
    """Return the source of everything that is discovered: the stream it was itself discovered on."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def listener_body(
    listener: ListenerModel,
    *,
    with_engine: bool,
    message_timeout: float,
    body_limit: int,
    namespaces: tuple[str, ...] = (),
    asked: Asked = NOTHING_ASKED,
) -> bytes:
    """Return a serialised Listener; its routes are discovered under the listener's own name.

    `message_timeout` (seconds) is how long the engine may take for one phase, `body_limit` (bytes) the largest body
    that the engine accepts: Envoy must hold a little more, so that it is the engine that refuses (R-09). `namespaces`
    are those of dynamic metadata that the engine may write; Envoy drops all others. `asked` is what policies and
    conditions read of Envoy.
    """
    filters = [_http_filter("envoy.filters.http.router", Router())]
    if with_engine:
        filters.insert(0, _http_filter(FILTER, _external_processor(message_timeout, namespaces, asked)))
    buffer_limit = buffer_limit_for(body_limit)
    edge = {**SPELLINGS, "http2_protocol_options": http2_limits(buffer_limit)}
    if with_engine:
        edge["access_log"] = access_log()
    manager = HttpConnectionManager.parse(_wire(edge, http_connection_manager_pb2.HttpConnectionManager()))
    manager.stat_prefix = listener.name
    manager.rds = Rds(config_source=over_ads(), route_config_name=listener.name)
    manager.http_filters = filters
    return bytes(
        Listener(
            name=listener.name,
            address=Address(socket_address=SocketAddress(address=listener.address, port_value=listener.port)),
            filter_chains=[
                FilterChain(
                    filters=[
                        Filter(name="envoy.filters.network.http_connection_manager", typed_config=Any.pack(manager))
                    ]
                )
            ],
            per_connection_buffer_limit_bytes=buffer_limit,
        )
    )


def steady_message_timeout(slowest_phase: float) -> float:
    """Return the seconds Envoy waits for one answer, rounded up to a power of two and at least 2.

    Rounded, so that a policy's changed timeout seldom changes the listener.
    """
    needed, timeout = message_timeout_for(slowest_phase), _SHORTEST_TIMEOUT
    while timeout < needed:
        timeout *= 2
    return min(timeout, LONGEST_MESSAGE_TIMEOUT)


def _external_processor(message_timeout: float, namespaces: tuple[str, ...], asked: Asked) -> ExternalProcessor:
    options = metadata_options(asked, namespaces)
    return ExternalProcessor(
        grpc_service=GrpcService(
            envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=ENGINE_CLUSTER), retry_policy=_another_engine()
        ),
        failure_mode_allow=False,
        # What a route does not say, the engine says with its first answer.
        allow_mode_override=True,
        processing_mode=ProcessingMode.parse(_wire(FILTER_MODES, processing_mode_pb2.ProcessingMode())),
        request_attributes=list(request_attributes((ROUTE_NAME,), asked)),
        response_attributes=[RESPONSE_DETAILS],
        message_timeout=timedelta(seconds=message_timeout),
        # Policies may rewrite method, authority and scheme.
        mutation_rules=HeaderMutationRules(allow_all_routing=True),
        metadata_options=MetadataOptions.parse(_wire(options, ext_proc_pb2.MetadataOptions())),
    )


def _another_engine() -> RetryPolicy:
    """Return a policy that tries another engine when one cannot have seen the request: it restarts, or is gone."""
    return RetryPolicy(
        num_retries=3,
        retry_on=",".join(sorted(RETRY_ON)),
        retry_back_off=BackoffStrategy(
            base_interval=timedelta(milliseconds=10), max_interval=timedelta(milliseconds=100)
        ),
        retry_host_predicate=[
            RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts", typed_config=Any.pack(PreviousHostsPredicate())
            )
        ],
        host_selection_retry_max_attempts=3,
    )


def _wire(values: Mapping[str, object], message: ProtoMessage) -> bytes:
    """Return data in the words of Envoy's YAML, as one of its messages on the wire: the same bytes in every replica."""
    filled = json_format.ParseDict(dict(values), message)
    _pack_again(filled)
    return filled.SerializeToString(deterministic=True)


def _pack_again(message: ProtoMessage) -> None:
    """Write what is packed in `message` with its maps in order: `json_format` leaves that to chance."""
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for one in value if isinstance(value, Sequence) else (value,):
            if not isinstance(one, any_pb2.Any):
                _pack_again(one)
                continue
            packed = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(one.TypeName()))()
            one.Unpack(packed)
            _pack_again(packed)
            one.value = packed.SerializeToString(deterministic=True)


def _http_filter(name: str, message: Message) -> HttpFilter:
    return HttpFilter(name=name, typed_config=Any.pack(message))
