"""What of a request nobody may read in a record: credentials, by their names, by their places and by their values.

A separate module because every record passes through it, wherever it goes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

from policy_engine.documents.redaction import REDACTED
from policy_engine.worker.chains.compiled import CompiledChain

LONGEST_TEXT = 500
"""Characters of one value that a record shows."""

_MOST_READ = 4096
_SHORTEST_SECRET = 4

_WORDS = frozenset(
    {"auth", "authorization", "authentication", "bearer", "cookie", "credential", "credentials", "jwt", "nonce", "otp"}
    | {"passcode", "passphrase", "passwd", "password", "pin", "secret", "secrets", "session", "sessionid", "sid", "sig"}
    | {"signature", "token", "tokens", "assertion"}
)
"""A name with one of these words holds a credential."""

_LAST_WORDS = frozenset({"key", "keys", "apikey", "code", "cert", "hash"})
"""So does one that ends with one of these: `x-api-key`, `code` of OAuth; `key-count` does not."""

_ENDINGS = ("apikey", "credential", "password", "secret", "sessid", "sessionid", "signature", "token")
"""And one of which a word ends so: `idtoken`, `clientsecret`."""

_PLAIN_NAMES = frozenset({"sec-websocket-key", "idempotency-key", "www-authenticate", "status-code", "surrogate-key"})
"""Names that only sound so."""

_ITSELF = frozenset({"data", "id", "plain", "raw", "text", "value"})
"""Names, within what is called a credential, of the credential itself."""

_MOST_ENTRIES = 100
_SCHEMES = frozenset({"apikey", "aws4-hmac-sha256", "basic", "bearer", "digest", "dpop", "negotiate", "token"})
_WITH_SCHEME = frozenset({"authorization", "proxy-authorization"})
_COOKIES = frozenset({"cookie", "set-cookie"})
_USER = re.compile(r"(?<=//)[^/@\s]*@")
_PAIR = re.compile(r"(?i)(?:^|[?&;#,/\s\"'({]|%(?:25)*(?:3f|26|3b|23))([^=?&;#,/\s\"'({]{1,200}?)(?:=|%(?:25)*3d)")
"""A name with a value, in a query, a fragment, a form or among parameters; also within a value, then encoded."""

_END_OF_PAIR = re.compile(r"[&#\s]")
_END_IN_TEXT = re.compile(r"[&\n]")
_END_IN_JSON = re.compile(r"[&\s\"\\]")
_MEMBER = re.compile(r'"((?:[^"\\\n]|\\.){1,200})"\s*:\s*(?=([\[{])|"|-?[0-9])')
_SCALAR = re.compile(r'"(?:[^"\\]|\\.)*"?|[^,}\]\s]*')
_CODE_OF_AN_ERROR = re.compile(r'-[0-9]+\b|"[a-z]+(?:_[a-z]+)+"')
"""`code` of OAuth is a credential; that of an error, a negative number of JSON-RPC's or words, is none."""

_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]')
_ARGUMENT = re.compile(
    r"""(?<![\w.-])(?<!(?<!\\)")([\w.-]{1,200})(\\?['"]?\s*:\s*(\\?["']))(?:(?!\3)[^\n])*"""
    r"""|(?m:^)([ \t-]*)([\w.-]{1,200})(:[ \t]+)[^\s"'{\[][^\n]*"""
)
"""What a body that is no JSON has as `name: "value"` (GraphQL, also within JSON) or as a line `name: value` (YAML)."""

_TOKEN = re.compile(
    r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,4}|(?i:(?<=\bbearer )|(?<=\bbasic ))[A-Za-z0-9._~+/=-]{8,}"
)
"""What is a credential wherever it stands: a JWT (RFC 7519, 3), what follows the name of a scheme."""

_PART = re.compile(r'(\bname="([^"\n]{1,200})"[^\n]{0,300}\n(?:[^\n]{1,300}\n){0,5}\n)([^\n]*)')
_ELEMENT = re.compile(r"<([\w:.-]{1,200})((?:\s[^<>]*)?)>([^<]+)(?=</)")
_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})")


@lru_cache(maxsize=4096)
def holds_credential(name: str) -> bool:
    """Return whether a header, parameter or key of this name is taken for a credential."""
    lower = name.lower()
    if lower in _PLAIN_NAMES:
        return False
    spaced = "".join(f" {char.lower()}" if char.isupper() else char for char in name)
    words = re.split(r"[^a-z0-9]+", f"{lower} {spaced}".strip())
    return not _WORDS.isdisjoint(words) or words[-1] in _LAST_WORDS or any(one.endswith(_ENDINGS) for one in words)


class Masking:
    """Masks by what all names say, by `names` that the policies of one chain say, and by `secrets`, texts as such."""

    __slots__ = ("_names", "_secrets")

    def __init__(self, names: Iterable[str] = (), secrets: Iterable[str] = ()) -> None:
        self._names = frozenset(name.lower() for name in names)
        written = {form for one in secrets if len(one) >= _SHORTEST_SECRET for form in _written(one)}
        self._secrets = tuple(sorted(written, key=len, reverse=True))

    @classmethod
    def of(cls, chain: CompiledChain) -> Masking:
        """Return the masking for requests of `chain`."""
        return cls((name for instance in chain.instances for name in instance.credentials), chain.secrets)

    def is_credential(self, name: str) -> bool:
        """Return whether what stands under `name` may not be shown."""
        return name.lower() in self._names or holds_credential(name)

    def header(self, name: str, value: str) -> str:
        """Return the value of a header fit to be shown: of a credential its scheme, of cookies their names."""
        name = name.lower()
        if name in _COOKIES:
            return "; ".join(map(_cookie, value.split(";"))) if name == "cookie" else _cookie(value)
        if not self.is_credential(name):
            return self.text(value)
        scheme, separator, rest = value.partition(" ")
        if name in _WITH_SCHEME and separator and rest and scheme.lower() in _SCHEMES:
            return f"{scheme} {REDACTED}"
        return REDACTED if value else ""

    def text(self, value: str) -> str:
        """Return a text (a path, a header's value) without credentials in query parameters, and not too long."""
        cut = len(value) > _MOST_READ
        value = clean(value[:_MOST_READ])
        for secret in self._secrets:
            value = value.replace(secret, REDACTED)
        if cut and self._secrets:
            value = value[: -len(self._secrets[0])]  # where the beginning of one may stand
        value = _TOKEN.sub(REDACTED, _USER.sub(f"{REDACTED}@", value))
        value = self._without_pairs(value, _END_OF_PAIR)
        return shortened(value, LONGEST_TEXT)

    def query(self, value: str) -> str:
        """Return a query string without credentials."""
        return self.text(f"?{value}")[1:]

    def body(self, data: bytes, most: int) -> str:
        """Return at most `most` characters of a body, without members and fields that hold credentials."""
        text = clean(data[: 4 * most + 1024].decode("utf-8", "replace").replace("\r\n", "\n"))
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        text = _TOKEN.sub(REDACTED, text)
        if text.lstrip()[:1] in ("{", "[", '"'):
            text = self._without_pairs(self._without_members(text), _END_IN_JSON)
        else:
            text = self._without_pairs(_PART.sub(self._part, self._without_members(text)), _END_IN_TEXT)
        text = _ARGUMENT.sub(self._argument, text)
        if "</" in text:
            text = _ELEMENT.sub(self._element, text)
        return shortened(text, most)

    def value(self, name: str, value: Any) -> Any:
        """Return JSON data under `name` (of metadata, of an expression) fit to be shown."""
        secret = self.is_credential(name)
        if isinstance(value, Mapping):
            # Who a key or a token belongs to is what people look for; what it is stands under such a name again.
            within = [(str(key), one) for key, one in list(value.items())[:_MOST_ENTRIES]]
            return {
                self.text(key): REDACTED if secret and key.lower() in _ITSELF else self.value(key, one)
                for key, one in within
            }
        if secret:
            return REDACTED
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value("", one) for one in list(value)[:_MOST_ENTRIES]]
        if value is None or isinstance(value, bool | int | float):
            return value
        return f"({type(value).__name__})"

    def _without_pairs(self, text: str, end: re.Pattern[str]) -> str:
        """Return `text` without the values of parameters and fields that hold credentials; `end` ends a value."""
        kept: list[str] = []
        at = 0
        for match in _PAIR.finditer(text):
            begin = match.end()
            if begin < at or begin == len(text) or not self.is_credential(_decoded(match[1])):
                continue
            mark = text[begin] if text[begin] in "\"'" else ""
            found = text.find(mark, begin + 1) if mark else -1
            ended = None if found >= 0 else end.search(text, begin)
            stop = found + 1 if found >= 0 else ended.start() if ended is not None else len(text)
            if stop > begin:
                kept += text[at:begin], REDACTED
                at = stop
        return "".join(kept) + text[at:]

    def _without_members(self, text: str) -> str:
        """Return `text` without the values of members of JSON objects that hold credentials, however deep."""
        kept: list[str] = []
        at = 0
        for match in _MEMBER.finditer(text):
            begin = match.end()
            if begin < at or not self.is_credential(_unescaped(match[1])):
                continue
            if match[1] == "code" and _CODE_OF_AN_ERROR.match(text, begin):
                continue
            scalar = None if match[2] else _SCALAR.match(text, begin)
            kept += text[at:begin], f'"{REDACTED}"'
            at = scalar.end() if scalar is not None else _end_of_structure(text, begin)
        return "".join(kept) + text[at:]

    def _argument(self, match: re.Match[str]) -> str:
        if match[1] is not None:
            return f"{match[1]}{match[2]}{REDACTED}" if self.is_credential(match[1]) else match[0]
        return f"{match[4]}{match[5]}{match[6]}{REDACTED}" if self.is_credential(match[5]) else match[0]

    def _part(self, match: re.Match[str]) -> str:
        return f"{match[1]}{REDACTED}" if self.is_credential(match[2]) else match[0]

    def _element(self, match: re.Match[str]) -> str:
        name = match[1].rpartition(":")[2]
        return f"<{match[1]}{match[2]}>{REDACTED}" if self.is_credential(name) else match[0]


def clean(text: str) -> str:
    """Return `text` as it may stand in JSON and on a terminal: no surrogates, no control characters but line ends."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        one
        if one.isprintable() or one in "\n\t "
        else "\ufffd"
        if "\ud800" <= one <= "\udfff"
        else f"\\x{ord(one):02x}"
        for one in text
    )


def shortened(text: str, most: int) -> str:
    """Return `text` cut to `most` characters, with how many are left out."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} more characters)"


def _cookie(text: str) -> str:
    name, separator, rest = text.strip().partition("=")
    if not separator:
        return REDACTED if name else ""
    attributes = rest.partition(";")[1:]
    return f"{clean(name)}={REDACTED}{clean(''.join(attributes))}"


def _decoded(name: str) -> str:
    return _PERCENT.sub(lambda match: chr(int(match[1], 16)), name)


def _unescaped(name: str) -> str:
    try:
        return str(json.loads(f'"{name}"'))
    except ValueError:
        return name


def _written(secret: str) -> tuple[str, ...]:
    """Return a secret as it stands in a text, a query (RFC 3986, 2.1), a form, and a string of JSON."""
    return secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]


def _end_of_structure(text: str, begin: int) -> int:
    """Return where the array or object ends that begins there; the end of the text where it is cut off."""
    depth = 0
    for match in _STRUCTURE.finditer(text, begin):
        one = match[0]
        depth += (one in "[{") - (one in "]}")
        if depth == 0:
            return match.end()
    return len(text)
