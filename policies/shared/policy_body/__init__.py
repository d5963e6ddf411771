"""Bodies for policies: strict JSON, media types, problem documents, server-sent events.

A plain library of the standard library and the SDK; several policies share it, it is no policy itself. See its README.
"""

from policy_body.media import charset_of, is_compressed, matches_media, media_type_of
from policy_body.problem import problem
from policy_body.sse import EventSplitter, EventTooLarge, data_of, event_of
from policy_body.strict_json import NotJson, dump, parse

__all__ = [
    "EventSplitter",
    "EventTooLarge",
    "NotJson",
    "charset_of",
    "data_of",
    "dump",
    "event_of",
    "is_compressed",
    "matches_media",
    "media_type_of",
    "parse",
    "problem",
]
