"""Bodies for policies: strict JSON, JSON Pointers, media types, problem documents, server-sent events.

A plain library of the standard library and the SDK; several policies share it, it is no policy itself. See its README.
"""

from policy_body.media import is_compressed, matches_media, media_type_of
from policy_body.pointer import MISSING, PointerError, find, format_pointer, parse_pointer
from policy_body.problem import problem
from policy_body.sse import EventSplitter, EventTooLarge, data_of, event_of
from policy_body.strict_json import NotJson, dump, parse

__all__ = [
    "EventSplitter",
    "EventTooLarge",
    "MISSING",
    "NotJson",
    "PointerError",
    "data_of",
    "dump",
    "event_of",
    "find",
    "format_pointer",
    "is_compressed",
    "matches_media",
    "media_type_of",
    "parse",
    "parse_pointer",
    "problem",
]
