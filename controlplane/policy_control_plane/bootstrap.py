"""The bootstrap of an Envoy that is told nothing but where the control plane is.

A separate module because it is the one piece of Envoy configuration that is not discovered, and an operator's to keep.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any as AnyData

from envoy_data_plane.envoy.config.bootstrap.v3 import (
    Admin,
    Bootstrap,
    BootstrapDynamicResources,
    BootstrapStaticResources,
)
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    ApiConfigSource,
    ApiConfigSourceApiType,
    ApiVersion,
    DataSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    Http2ProtocolOptions,
    KeepaliveSettings,
    Node,
    SocketAddress,
    TransportSocket,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsCertificate,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

from policy_control_plane.envoy_listeners import over_ads
from policy_engine.envoy.filter_config import HTTP_OPTIONS

_CLUSTER = "policy-control-plane"


@dataclass(frozen=True, slots=True)
class BootstrapOptions:
    """`host` and `port` of the control plane; paths are on Envoy's machine; `admin_port` 0 takes a free one."""

    host: str
    port: int
    node_id: str
    node_cluster: str = "envoy"
    admin_port: int | None = None
    delta: bool = True
    authority: str | None = None
    certificate: str | None = None
    key: str | None = None
    server_name: str | None = None


def bootstrap(options: BootstrapOptions) -> str:
    """Return the bootstrap as JSON, which Envoy reads as it reads YAML."""
    message = Bootstrap(
        node=Node(id=options.node_id, cluster=options.node_cluster),
        admin=None if options.admin_port is None else Admin(address=_address("127.0.0.1", options.admin_port)),
        dynamic_resources=BootstrapDynamicResources(
            ads_config=ApiConfigSource(
                api_type=ApiConfigSourceApiType.DELTA_GRPC if options.delta else ApiConfigSourceApiType.GRPC,
                transport_api_version=ApiVersion.V3,
                grpc_services=[GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=_CLUSTER))],
                set_node_on_first_message_only=True,
            ),
            cds_config=over_ads(),
            lds_config=over_ads(),
        ),
        static_resources=BootstrapStaticResources(clusters=[_control_plane(options)]),
    )
    document: AnyData = message.to_dict()
    return json.dumps(document, indent=2) + "\n"


def _control_plane(options: BootstrapOptions) -> Cluster:
    http2 = Http2ProtocolOptions(
        connection_keepalive=KeepaliveSettings(interval=timedelta(seconds=30), timeout=timedelta(seconds=10))
    )
    return Cluster(
        name=_CLUSTER,
        type=ClusterDiscoveryType.STRICT_DNS,
        connect_timeout=timedelta(seconds=1),
        load_assignment=ClusterLoadAssignment(
            cluster_name=_CLUSTER,
            endpoints=[
                LocalityLbEndpoints(
                    lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=_address(options.host, options.port)))]
                )
            ],
        ),
        typed_extension_protocol_options={
            HTTP_OPTIONS: Any.pack(
                HttpProtocolOptions(
                    explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=http2)
                )
            )
        },
        transport_socket=None if options.authority is None else _tls(options, options.authority),
    )


def _tls(options: BootstrapOptions, authority: str) -> TransportSocket:
    certificates = []
    if options.certificate is not None and options.key is not None:
        certificates.append(
            TlsCertificate(
                certificate_chain=DataSource(filename=options.certificate), private_key=DataSource(filename=options.key)
            )
        )
    context = CommonTlsContext(
        tls_certificates=certificates,
        validation_context=CertificateValidationContext(
            trusted_ca=DataSource(filename=authority),
            # Without this, Envoy takes any certificate of the authority for the control plane's.
            match_typed_subject_alt_names=[_named(options.server_name or options.host)],
        ),
    )
    return TransportSocket(
        name="envoy.transport_sockets.tls",
        typed_config=Any.pack(UpstreamTlsContext(common_tls_context=context, sni=options.server_name or options.host)),
    )


def _named(name: str) -> SubjectAltNameMatcher:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        kind = SubjectAltNameMatcherSanType.DNS
    else:
        kind = SubjectAltNameMatcherSanType.IP_ADDRESS
    return SubjectAltNameMatcher(san_type=kind, matcher=StringMatcher(exact=name))


def _address(host: str, port: int) -> Address:
    return Address(socket_address=SocketAddress(address=host, port_value=port))
