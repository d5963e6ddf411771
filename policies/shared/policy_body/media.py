"""What kind of body a message has, by its headers (RFC 9110, 8.3 and 8.4)."""

from __future__ import annotations

from collections.abc import Iterable

from policy_engine.sdk import Headers, UnreadableHeader, content_codings, media_type


def essence_of(headers: Headers) -> str | None:
    """Return the media type in lower case without parameters: empty when there is none, None when it is unreadable."""
    try:
        found = media_type(headers)
    except UnreadableHeader:
        return None
    return "" if found is None else found.essence


def media_type_of(headers: Headers) -> str:
    """Return the media type as `essence_of` does, empty also when it is unreadable: for who treats both alike."""
    return essence_of(headers) or ""


def matches_media(media_type: str, ranges: Iterable[str]) -> bool:
    """Tell whether a media type is in one of `ranges`: exact, `type/*`, `type/*+suffix`, or `*/*`."""
    return any(_in_range(media_type, one.lower()) for one in ranges)


def is_compressed(headers: Headers) -> bool:
    """Tell whether the body has a content coding other than identity."""
    return bool(content_codings(headers))


def _in_range(media_type: str, wanted: str) -> bool:
    if wanted in (media_type, "*/*"):
        return bool(media_type)
    kind, _, rest = wanted.partition("/")
    if not rest.startswith("*"):
        return False
    own_kind, _, subtype = media_type.partition("/")
    return own_kind == kind and subtype.endswith(rest[1:]) and len(subtype) > len(rest) - 1
