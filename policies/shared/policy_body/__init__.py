"""Bodies for policies: strict and lenient JSON, media types, problem documents, server-sent events.

A plain library of the standard library and the SDK; several policies share it, it is no policy itself. See its README.
"""

from policy_body.buffer import BodyBuffer
from policy_body.lenient_json import LenientReading, read_leniently, write_leniently
from policy_body.media import essence_of, is_compressed, matches_media, media_type_of
from policy_body.problem import is_denial, problem
from policy_body.sse import Event, EventBuffer, event_of, events_of
from policy_body.strict_json import NotJson, dump, parse

__all__ = [
    "BodyBuffer",
    "Event",
    "EventBuffer",
    "LenientReading",
    "NotJson",
    "essence_of",
    "dump",
    "event_of",
    "events_of",
    "is_compressed",
    "is_denial",
    "matches_media",
    "media_type_of",
    "parse",
    "problem",
    "read_leniently",
    "write_leniently",
]
