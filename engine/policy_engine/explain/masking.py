"""What of a request nobody may read in a record: credentials, by their names, by their places and by their values.

A separate module because every record passes through it, wherever it goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

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

_ENDINGS = ("apikey", "credential", "password", "secret", "signature", "token")
"""And one of which a word ends so: `idtoken`, `clientsecret`."""

_PLAIN_NAMES = frozenset({"sec-websocket-key", "idempotency-key", "www-authenticate", "status-code", "surrogate-key"})
"""Names that only sound so."""

_ITSELF = frozenset({"data", "id", "plain", "raw", "text", "value"})
"""Names, within what is called a credential, of the credential itself."""

_MOST_ENTRIES = 100
_SCHEMES = frozenset({"apikey", "aws4-hmac-sha256", "basic", "bearer", "digest", "dpop", "negotiate", "token"})
_WITH_SCHEME = frozenset({"authorization", "proxy-authorization"})
_COOKIES = frozenset({"cookie", "set-cookie"})
_USER = re.compile(r"(?<=://)[^/@\s]*@")
_SEPARATOR = re.compile(r"([?&;#\s])")
_FORM = re.compile(r"(^|[&])([^&=\s]{1,200})=([^&\s]*)")
_JSON_MEMBER = re.compile(r'"([^"\\\n]{1,200})"(\s*:\s*)("(?:[^"\\]|\\.)*"?|-?[0-9][^,}\]\s]*)')
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
        self._secrets = tuple(sorted((one for one in secrets if len(one) >= _SHORTEST_SECRET), key=len, reverse=True))

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
        if "=" in value:
            value = self._without_parameters(value)
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
        if '"' in text:
            text = _JSON_MEMBER.sub(self._member, _PART.sub(self._part, text))
        elif "=" in text and "\n" not in text:
            text = _FORM.sub(self._field, text)
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

    def _without_parameters(self, text: str) -> str:
        """Return `text` without the values of query parameters that hold credentials."""
        pieces = _SEPARATOR.split(text)
        hiding = False
        for at in range(2, len(pieces), 2):
            separator = pieces[at - 1]
            if hiding and separator == "?":  # which a value may hold
                pieces[at - 1] = pieces[at] = ""
                continue
            name, equals, value = pieces[at].partition("=")
            hiding = bool(equals and value and separator in "?&;" and self.is_credential(_decoded(name)))
            if hiding:
                pieces[at] = f"{name}={REDACTED}"
        return "".join(pieces)

    def _part(self, match: re.Match[str]) -> str:
        return f"{match[1]}{REDACTED}" if self.is_credential(match[2]) else match[0]

    def _element(self, match: re.Match[str]) -> str:
        name = match[1].rpartition(":")[2]
        return f"<{match[1]}{match[2]}>{REDACTED}" if self.is_credential(name) else match[0]

    def _field(self, match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}={REDACTED}" if self.is_credential(_decoded(match[2])) else match[0]

    def _member(self, match: re.Match[str]) -> str:
        return f'"{match[1]}"{match[2]}"{REDACTED}"' if self.is_credential(match[1]) else match[0]


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
