"""What kind of body a message has, by its headers (RFC 9110, 8.3 and 8.4)."""

from __future__ import annotations

from collections.abc import Iterable

from policy_engine.sdk import Headers


def media_type_of(headers: Headers) -> str:
    """Return the media type in lower case without parameters, empty when there is none or several differ."""
    types = {value.partition(";")[0].strip().lower() for value in headers.get_all("content-type")}
    return types.pop() if len(types) == 1 else ""


def charset_of(headers: Headers) -> str:
    """Return the charset parameter in lower case, empty when there is none."""
    for parameter in (headers.get("content-type") or "").split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower()
    return ""


def matches_media(media_type: str, ranges: Iterable[str]) -> bool:
    """Tell whether a media type is in one of `ranges`: exact, `type/*`, `type/*+suffix`, or `*/*`."""
    return any(_in_range(media_type, one.lower()) for one in ranges)


def is_compressed(headers: Headers) -> bool:
    """Tell whether the body has a content coding other than identity."""
    values = ",".join(headers.get_all("content-encoding")).split(",")
    return any(value.strip().lower() not in ("", "identity") for value in values)


def _in_range(media_type: str, wanted: str) -> bool:
    if wanted in (media_type, "*/*"):
        return bool(media_type)
    kind, _, rest = wanted.partition("/")
    if not rest.startswith("*"):
        return False
    own_kind, _, subtype = media_type.partition("/")
    return own_kind == kind and subtype.endswith(rest[1:]) and len(subtype) > len(rest) - 1
