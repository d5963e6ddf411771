"""Masks one body, whole or chunk by chunk; apart from the policy because both directions use it in the same way."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field

from policy_body import NotJson, dump, is_compressed, matches_media, parse
from policy_engine.sdk import Headers, UnreadableHeader, media_type

from .document import Places, masked
from .masker import Masker

# Charsets in which masks (ASCII) can be written, by the codec that keeps every byte.
_CODECS = {
    **dict.fromkeys(("", "utf-8", "utf8", "us-ascii", "ascii"), "utf-8"),
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin1", "windows-1252", "cp1252"), "latin-1"),
}
_UTF_16_MARKS = (b"\xfe\xff", b"\xff\xfe")  # the second one begins UTF-32 too


class Unmaskable(Exception):
    """The body cannot be looked at; the text is a short constant for the log."""


@dataclass(slots=True)
class TextBody:
    """Text whose pieces are masked line by line, with what is kept back between them: text, and a cut character.

    `start` are its first two bytes. What holds NUL or begins with the mark of UTF-16 is in a charset without ASCII,
    whatever the headers say or leave out: what is to be masked would stand there in a form that no detector knows.
    """

    codec: str
    held: str = ""
    cut: bytes = b""
    start: bytes = b""

    def takes(self, data: bytes) -> bool:
        """Tell whether `data`, the next piece, is text in such a charset. Half a mark alone is held back as text is."""
        self.start += data[: 2 - len(self.start)]
        return b"\0" not in data and not self.start.startswith(_UTF_16_MARKS)

    def rest(self) -> bytes:
        """Return what is kept back, as it came."""
        return self.held.encode(self.codec, "surrogateescape") + self.cut


@dataclass(slots=True)
class JsonBody:
    """A JSON document, which can be understood only when it is whole."""

    held: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True)
class Bodies:
    """What bodies are looked at, and the work itself; holds no state of a message."""

    masker: Masker
    include: Places
    exclude: Places
    json_types: tuple[str, ...]
    text_types: tuple[str, ...]
    max_json_bytes: int

    def begun(self, headers: Headers, *, decoded: bool) -> TextBody | JsonBody | None:
        """Return the state of a message's body, None when its type is not one to look at; raises Unmaskable.

        A type that cannot be read is not another type. `decoded` says that the engine has undone a content coding.
        """
        try:
            found = media_type(headers)
        except UnreadableHeader:
            raise Unmaskable("content_type") from None
        if found is None:
            return None
        is_json = matches_media(found.essence, self.json_types)
        if not is_json and not matches_media(found.essence, self.text_types):
            return None
        if not decoded and is_compressed(headers):
            raise Unmaskable("compressed")
        if is_json:
            return JsonBody()
        codec = _CODECS.get(found.charset)
        if codec is None:
            raise Unmaskable("charset")
        return TextBody(codec)

    def text(self, codec: str, cut: bytes, held: str, data: bytes, end: bool) -> tuple[bytes, bytes, str]:
        """Return the lines that are whole now (at the end all), and the new `cut` and `held`."""
        decoder = codecs.getincrementaldecoder(codec)("surrogateescape")
        decoder.setstate((cut, 0))
        text, held = self.masker.piece(held, decoder.decode(data, end), end=end)
        return text.encode(codec, "surrogateescape"), decoder.getstate()[0], held

    def document(self, raw: bytes) -> bytes | Unmaskable:
        """Return a JSON document masked, or why it cannot be."""
        if not raw:
            return raw
        try:
            value = parse(raw, max_depth=200)
        except NotJson:
            return Unmaskable("not_json")
        new = masked(value, self.masker.mask, self.include, self.exclude)
        return raw if new is value else dump(new)
