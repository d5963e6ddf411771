"""Masks one body, whole or chunk by chunk; apart from the policy because both directions use it in the same way."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass

from policy_body import NotJson, dump, is_compressed, matches_media, parse
from policy_engine.sdk import Headers, UnreadableHeader, media_type

from .masker import Masker, Stream

# Charsets in which masks (ASCII) can be written, by the codec that keeps every byte.
_CODECS = {
    **dict.fromkeys(("", "utf-8", "utf8", "us-ascii", "ascii"), "utf-8"),
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin1", "windows-1252", "cp1252"), "latin-1"),
}
_UTF_16_MARKS = (b"\xfe\xff", b"\xff\xfe")  # the second one begins UTF-32 too


class Unmaskable(Exception):
    """The body cannot be looked at; the text is a short constant for the log."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What both directions share: types, bounds and the work itself on a JSON document."""

    masker: Masker
    mask_document: Callable[[object], object]
    json_types: tuple[str, ...]
    text_types: tuple[str, ...]
    max_json_bytes: int


class BodyMasker:
    """Takes the pieces of one body and gives masked pieces; made by `body_masker`."""

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Return what can go on now; raises Unmaskable."""
        raise NotImplementedError


class TextBody(BodyMasker):
    """Text, line by line, in a charset of which ASCII is a part.

    What holds NUL or begins with the mark of UTF-16 is in another one, whatever the headers say or leave out: what is
    to be masked would stand there in a form that no detector knows.
    """

    def __init__(self, settings: Settings, codec: str) -> None:
        self._codec = codec
        self._decoder = codecs.getincrementaldecoder(codec)("surrogateescape")
        self._stream = Stream(settings.masker)
        self._start: bytes | None = b""

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Return the lines that are whole now, and at the end the rest."""
        if self._start is not None:
            data = self._start + data
            if len(data) < 2 and not end:
                self._start = data  # half of a mark
                return b""
            self._start = None
            if data.startswith(_UTF_16_MARKS):
                raise Unmaskable("charset")
        if b"\0" in data:
            raise Unmaskable("charset")
        text = self._stream.feed(self._decoder.decode(data, end))
        if end:
            text += self._stream.finish()
        return text.encode(self._codec, "surrogateescape")


class JsonBody(BodyMasker):
    """A JSON document, which can be understood only when it is whole."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held = bytearray()

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Return nothing until the end, then the whole document."""
        self._held += data
        if len(self._held) > self._settings.max_json_bytes:
            raise Unmaskable("json_too_large")
        if not end:
            return b""
        raw = bytes(self._held)
        if not raw:
            return raw
        try:
            value = parse(raw, max_depth=200)
        except NotJson:
            raise Unmaskable("not_json") from None
        new = self._settings.mask_document(value)
        return raw if new is value else dump(new)


def body_masker(settings: Settings, headers: Headers, *, decoded: bool) -> BodyMasker | None:
    """Return what masks the body of a message, None when its type is not one to look at; raises Unmaskable.

    A type that cannot be read is not another type. `decoded` says that the engine has undone a content coding.
    """
    try:
        found = media_type(headers)
    except UnreadableHeader:
        raise Unmaskable("content_type") from None
    if found is None:
        return None
    is_json = matches_media(found.essence, settings.json_types)
    if not is_json and not matches_media(found.essence, settings.text_types):
        return None
    if not decoded and is_compressed(headers):
        raise Unmaskable("compressed")
    if is_json:
        return JsonBody(settings)
    codec = _CODECS.get(found.charset)
    if codec is None:
        raise Unmaskable("charset")
    return TextBody(settings, codec)
