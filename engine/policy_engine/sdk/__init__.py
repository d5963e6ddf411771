"""Everything a policy author imports. It depends on the standard library alone."""

from policy_engine.sdk.actions import (
    Chunk,
    ChunkMutation,
    DynamicMetadata,
    ImmediateResponse,
    Json,
    RequestAction,
    RequestChunkAction,
    RequestMutation,
    ResponseAction,
    ResponseMutation,
    TrailerMutation,
)
from policy_engine.sdk.attributes import AttributeValue, EnvoyMetadata, NotAskedFor
from policy_engine.sdk.dependencies import Dependency, dependency
from policy_engine.sdk.exchange import Request, Response, ResponseOrigin
from policy_engine.sdk.expressions import Expression, ExpressionFailed
from policy_engine.sdk.header_fields import (
    MediaType,
    UnreadableHeader,
    authority_of,
    content_codings,
    credentials,
    host_of,
    list_members,
    media_type,
    single,
)
from policy_engine.sdk.header_rules import header_name, header_value
from policy_engine.sdk.headers import Headers, HeaderValue
from policy_engine.sdk.json_pointer import MISSING, PointerError, find, format_pointer, parse_pointer
from policy_engine.sdk.keys import digest_key, joined_key
from policy_engine.sdk.metrics import Counter, Histogram, MetricError
from policy_engine.sdk.policy import ParameterError, Parameters, Policy

__all__ = [
    "Policy",
    "Parameters",
    "ParameterError",
    "Request",
    "Response",
    "AttributeValue",
    "EnvoyMetadata",
    "NotAskedFor",
    "Counter",
    "Histogram",
    "MetricError",
    "ResponseOrigin",
    "Headers",
    "HeaderValue",
    "header_name",
    "header_value",
    "single",
    "list_members",
    "media_type",
    "MediaType",
    "UnreadableHeader",
    "content_codings",
    "credentials",
    "host_of",
    "authority_of",
    "joined_key",
    "digest_key",
    "RequestAction",
    "RequestChunkAction",
    "RequestMutation",
    "ResponseAction",
    "ResponseMutation",
    "ImmediateResponse",
    "Chunk",
    "ChunkMutation",
    "TrailerMutation",
    "DynamicMetadata",
    "Expression",
    "ExpressionFailed",
    "Dependency",
    "dependency",
    "Json",
    "MISSING",
    "PointerError",
    "find",
    "format_pointer",
    "parse_pointer",
]
