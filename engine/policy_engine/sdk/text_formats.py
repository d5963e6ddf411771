"""The formats of JSON Schema (2020-12 validation, 7.3) as the RFCs have them, each in time linear in its text.

In the SDK because the engine checks parameters with them and policies check bodies, and both must mean the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final

Format = Callable[[str], bool]

_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_MINUTES_A_DAY = 24 * 60
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})", re.ASCII)
_TIME = re.compile(
    r"([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(?:\.\d+)?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))", re.ASCII
)
_SECONDS = r"\d+(?:\.\d+)?S"  # RFC 3339 has no fraction; many writers do
_DURATION_TIME = rf"T(?:\d+H(?:\d+M(?:{_SECONDS})?)?|\d+M(?:{_SECONDS})?|{_SECONDS})"
_DURATION = re.compile(
    rf"P(?:\d+W|(?:\d+D|\d+M(?:\d+D)?|\d+Y(?:\d+M(?:\d+D)?)?)(?:{_DURATION_TIME})?|{_DURATION_TIME})", re.ASCII
)
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL_PART = re.compile(rf'{_ATOM}(?:\.{_ATOM})*|"(?:[ !#-\[\]-~]|\\[ -~])*"')
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_POINTER = re.compile(r"(?:/(?:[^/~]|~[01])*)*")
_RELATIVE_POINTER = re.compile(r"(?:0|[1-9][0-9]*)(?:#|((?:/(?:[^/~]|~[01])*)*))", re.ASCII)

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_BEYOND_ASCII = "\xa0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef\U00010000-\U000efffd"
_PRIVATE = "\ue000-\uf8ff\U000f0000-\U0010fffd"
_IP_FUTURE = re.compile(r"[vV][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+")
_VARIABLE = r"(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})(?:\.?(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2}))*(?:\*|:[1-9][0-9]{0,3})?"
_URI_TEMPLATE = re.compile(
    rf"(?:[^\x00-\x20\"'%<>\\^`{{|}}\x7f]|%[0-9A-Fa-f]{{2}}|'|\{{[+#./;?&=,!@|]?{_VARIABLE}(?:,{_VARIABLE})*\}})*"
)


def is_date(text: str) -> bool:
    """RFC 3339, 5.6: full-date."""
    found = _DATE.fullmatch(text)
    if found is None:
        return False
    year, month, day = int(found[1]), int(found[2]), int(found[3])
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 1 <= month <= 12 and 1 <= day <= _DAYS[month - 1] + (month == 2 and leap)


def is_time(text: str) -> bool:
    """RFC 3339, 5.6: full-time. Second 60 is there only in the last minute of a day of UTC (5.7)."""
    found = _TIME.fullmatch(text)
    if found is None:
        return False
    if found[3] != "60":
        return True
    offset = 0 if found[4] is None else (int(found[5]) * 60 + int(found[6])) * (1 if found[4] == "+" else -1)
    return (int(found[1]) * 60 + int(found[2]) - offset) % _MINUTES_A_DAY == _MINUTES_A_DAY - 1


def is_date_time(text: str) -> bool:
    """RFC 3339, 5.6: date-time."""
    return text[10:11] in ("T", "t") and is_date(text[:10]) and is_time(text[11:])


def is_duration(text: str) -> bool:
    """RFC 3339, A: duration; seconds may have a fraction."""
    return _DURATION.fullmatch(text) is not None


def is_ipv4(text: str) -> bool:
    """RFC 2673, 3.2: four numbers without leading zeros."""
    return _is_address(IPv4Address, text)


def is_ipv6(text: str) -> bool:
    """RFC 4291, 2.2: an address without a zone."""
    return "%" not in text and _is_address(IPv6Address, text)


def is_hostname(text: str) -> bool:
    """RFC 1123, 2.1, with labels in punycode that stand for a name that IDNA allows (RFC 5891, 5.4)."""
    return 0 < len(text) <= 253 and all(_LABEL.fullmatch(label) and _is_fair(label) for label in text.split("."))


def is_email(text: str) -> bool:
    """RFC 5321, 4.1.2: Mailbox."""
    local, at, domain = text.rpartition("@")
    if not at or len(local) > 64 or _LOCAL_PART.fullmatch(local) is None:
        return False
    if domain.startswith("[") and domain.endswith("]"):
        address = domain[1:-1]
        return is_ipv6(address[5:]) if address[:5].lower() == "ipv6:" else is_ipv4(address)
    return is_hostname(domain)


def is_uuid(text: str) -> bool:
    """RFC 4122, 3."""
    return _UUID.fullmatch(text) is not None


def is_json_pointer(text: str) -> bool:
    """RFC 6901, 3."""
    return _POINTER.fullmatch(text) is not None


def is_relative_json_pointer(text: str) -> bool:
    """draft-bhutton-relative-json-pointer-00, 3."""
    return _RELATIVE_POINTER.fullmatch(text) is not None


def is_uri_template(text: str) -> bool:
    """RFC 6570, 2."""
    return _URI_TEMPLATE.fullmatch(text) is not None


def is_uri(text: str) -> bool:
    """RFC 3986, 3: with a scheme."""
    return _is_reference(text, _ASCII_PARTS, absolute=True)


def is_uri_reference(text: str) -> bool:
    """RFC 3986, 4.1: a URI or a relative reference."""
    return _is_reference(text, _ASCII_PARTS, absolute=False)


def is_iri(text: str) -> bool:
    """RFC 3987, 2.2: with a scheme."""
    return _is_reference(text, _UNICODE_PARTS, absolute=True)


def is_iri_reference(text: str) -> bool:
    """RFC 3987, 2.2: an IRI or a relative reference."""
    return _is_reference(text, _UNICODE_PARTS, absolute=False)


def _is_address(kind: Callable[[str], object], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return text.isascii()


class _Parts:
    """What may stand in the parts of a reference; `beyond` are further characters, as for a character class."""

    def __init__(self, beyond: str, private: str) -> None:
        plain = rf"A-Za-z0-9._~!$&'()*+,;=\-{beyond}"
        self.name = re.compile(rf"(?:[{plain}]|%[0-9A-Fa-f]{{2}})*")
        self.user = re.compile(rf"(?:[{plain}:]|%[0-9A-Fa-f]{{2}})*")
        self.path = re.compile(rf"(?:[{plain}:@/]|%[0-9A-Fa-f]{{2}})*")
        self.fragment = re.compile(rf"(?:[{plain}:@/?]|%[0-9A-Fa-f]{{2}})*")
        self.query = re.compile(rf"(?:[{plain}:@/?{private}]|%[0-9A-Fa-f]{{2}})*")


_ASCII_PARTS, _UNICODE_PARTS = _Parts("", ""), _Parts(_BEYOND_ASCII, _PRIVATE)


def _is_reference(text: str, parts: _Parts, *, absolute: bool) -> bool:
    rest, _, fragment = text.partition("#")
    rest, _, query = rest.partition("?")
    scheme, colon, after = rest.partition(":")
    has_scheme = bool(colon) and _SCHEME.fullmatch(scheme) is not None
    if absolute and not has_scheme:
        return False
    path = after if has_scheme else rest
    if path.startswith("//"):
        authority, slash, path = path[2:].partition("/")
        path = slash + path
        if not _is_authority(authority, parts):
            return False
    elif not has_scheme and ":" in path.partition("/")[0]:
        return False  # the first segment would be read as a scheme
    return bool(parts.path.fullmatch(path) and parts.query.fullmatch(query) and parts.fragment.fullmatch(fragment))


def _is_authority(text: str, parts: _Parts) -> bool:
    user, at, host = text.rpartition("@")
    if at and parts.user.fullmatch(user) is None:
        return False
    if host.startswith("["):
        address, bracket, port = host[1:].partition("]")
        known = bool(bracket) and (is_ipv6(address) or _IP_FUTURE.fullmatch(address) is not None)
        return known and (not port or (port[0] == ":" and _is_port(port[1:])))
    name, _, port = host.partition(":")
    return parts.name.fullmatch(name) is not None and _is_port(port)


def _is_port(text: str) -> bool:
    return not text or (text.isascii() and text.isdigit())


_ALLOWED_CATEGORIES = frozenset(("Ll", "Lo", "Lm", "Mn", "Mc", "Nd"))  # RFC 5892, 2.1
_ALLOWED_TOO = frozenset("\xdf\u03c2\u06fd\u06fe\u0f0b\u3007")  # RFC 5892, 2.6
_REFUSED = frozenset("\u0640\u07fa\u302e\u302f\u3031\u3032\u3033\u3034\u3035\u303b")
_VIRAMA = 9  # canonical combining class


def _is_fair(label: str) -> bool:
    """Tell whether a label is no A-label, or one that IDNA 2008 allows."""
    if label[2:4] != "--":
        return True
    if label[:4].lower() != "xn--":
        return True  # reserved, but harmless: RFC 5890, 2.3.1
    try:
        name = label[4:].lower().encode("ascii").decode("punycode")
    except (UnicodeError, ValueError, OverflowError):
        return False
    return _is_unicode_label(name) and _encoded(name) == label[4:].lower()


def _encoded(name: str) -> str:
    try:
        return name.encode("punycode").decode("ascii")
    except UnicodeError:
        return ""


def _is_unicode_label(name: str) -> bool:
    if name.isascii() or name[2:4] == "--" or name[0] == "-" or name[-1] == "-" or len(name) > 63:
        return False
    if unicodedata.normalize("NFC", name) != name or unicodedata.category(name[0]).startswith("M"):
        return False
    return all(_may_stand(name, at) for at in range(len(name)))


def _may_stand(name: str, at: int) -> bool:
    char = name[at]
    if char.isascii():
        return char.islower() or char.isdigit() or char == "-"
    context = _CONTEXTS.get(char)
    if context is not None:
        return context(name, at)
    if char in _REFUSED:
        return False
    if char in _ALLOWED_TOO:
        return True
    stable = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", char).casefold()) == char
    return stable and unicodedata.category(char) in _ALLOWED_CATEGORIES


def _is_script(char: str, *scripts: str) -> bool:
    return unicodedata.name(char, "").startswith(scripts)


def _after_virama(name: str, at: int) -> bool:
    return at > 0 and unicodedata.combining(name[at - 1]) == _VIRAMA


def _between_l(name: str, at: int) -> bool:
    return name[at - 1 : at] == "l" and name[at + 1 : at + 2] == "l"


def _before_greek(name: str, at: int) -> bool:
    return at + 1 < len(name) and _is_script(name[at + 1], "GREEK")


def _after_hebrew(name: str, at: int) -> bool:
    return at > 0 and _is_script(name[at - 1], "HEBREW")


def _among_kana(name: str, at: int) -> bool:
    return any(_is_script(char, "HIRAGANA", "KATAKANA LETTER", "CJK") for char in name)


def _without_extended_digits(name: str, at: int) -> bool:
    return not any("\u06f0" <= char <= "\u06f9" for char in name)


def _without_arabic_digits(name: str, at: int) -> bool:
    return not any("\u0660" <= char <= "\u0669" for char in name)


_CONTEXTS: Mapping[str, Callable[[str, int], bool]] = {
    "\u200c": _after_virama,
    "\u200d": _after_virama,
    "\xb7": _between_l,
    "\u0375": _before_greek,
    "\u05f3": _after_hebrew,
    "\u05f4": _after_hebrew,
    "\u30fb": _among_kana,
    **dict.fromkeys(map(chr, range(0x0660, 0x066A)), _without_extended_digits),
    **dict.fromkeys(map(chr, range(0x06F0, 0x06FA)), _without_arabic_digits),
}
"""Characters that may stand in some places only (RFC 5892, A)."""


FORMATS: Final[Mapping[str, Format]] = {
    "date": is_date,
    "time": is_time,
    "date-time": is_date_time,
    "duration": is_duration,
    "email": is_email,
    "hostname": is_hostname,
    "ipv4": is_ipv4,
    "ipv6": is_ipv6,
    "uri": is_uri,
    "uri-reference": is_uri_reference,
    "iri": is_iri,
    "iri-reference": is_iri_reference,
    "uri-template": is_uri_template,
    "uuid": is_uuid,
    "json-pointer": is_json_pointer,
    "relative-json-pointer": is_relative_json_pointer,
}
"""The formats by their names; `regex` is not among them, as it depends on who runs the expression."""
