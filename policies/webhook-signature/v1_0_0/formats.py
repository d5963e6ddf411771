"""Where senders put their signatures and what they sign; apart from the policy because each has its own convention."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policy_engine.sdk import Headers, ParameterError, header_name

TOLERANCE = 300
"""Seconds by which the time of a signature may differ unless the parameters say otherwise."""
_MOST_SIGNATURES = 16
_DIGITS = re.compile(r"[0-9]{1,12}", re.ASCII)
_ID = re.compile(r"[!-\-/-~]{1,256}", re.ASCII)  # printable, and no full stop, which separates what is signed
_STANDARD_PREFIX = "whsec_"
_BODY, _TIMESTAMP = "{body}", "{timestamp}"


class Unsigned(Exception):
    """The headers hold no signature that could be checked; `reason` says why, without anything of them."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request claims: one of `signatures` is that of `before`, the body and `after`; `time` is in seconds."""

    signatures: tuple[bytes, ...]
    before: bytes = b""
    after: bytes = b""
    time: int | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """A convention. `read` raises Unsigned; `headers` hold signatures; `algorithm` as in hashlib; is a time signed?"""

    read: Callable[[Headers], Claim]
    headers: tuple[str, ...]
    algorithm: str = "sha256"
    timed: bool = True


def format_of(parameters: Mapping[str, Any]) -> Format:
    """Return the format of the parameters; raises ParameterError."""
    name = parameters["format"]
    if (name == "hmac") is not ("hmac" in parameters):
        reason = "describe the signature" if name == "hmac" else f"format {name} has its own; leave this out"
        raise ParameterError(reason, "/hmac")
    found = _own(parameters["hmac"]) if name == "hmac" else _KNOWN[name]
    if not found.timed and parameters.get("tolerance", TOLERANCE) != TOLERANCE:
        raise ParameterError(
            "means nothing here: no time is signed, so that old requests are let through", "/tolerance"
        )
    return found


def keys_of(parameters: Mapping[str, Any]) -> tuple[bytes, ...]:
    """Return the keys of the HMAC, in their order; raises ParameterError."""
    secrets: Sequence[str] = parameters["secrets"]
    if parameters["format"] != "standard-webhooks":
        return tuple(secret.encode() for secret in secrets)
    keys = []
    for index, secret in enumerate(secrets):
        key = _decoded(secret.removeprefix(_STANDARD_PREFIX))
        if key is None or not 24 <= len(key) <= 64:
            reason = "a secret of Standard Webhooks is 24 to 64 bytes in Base64, with or without whsec_ before it"
            raise ParameterError(reason, f"/secrets/{index}")
        keys.append(key)
    return tuple(keys)


def _github(headers: Headers) -> Claim:
    """https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries"""
    return Claim((_hex(_after(_one(headers, "x-hub-signature-256"), "sha256=")),))


def _slack(headers: Headers) -> Claim:
    """https://api.slack.com/authentication/verifying-requests-from-slack"""
    signature = _hex(_after(_one(headers, "x-slack-signature"), "v0="))
    time = _digits(_one(headers, "x-slack-request-timestamp"))
    return Claim((signature,), before=f"v0:{time}:".encode(), time=int(time))


def _stripe(headers: Headers) -> Claim:
    """https://docs.stripe.com/webhooks?verify=verify-manually"""
    parts = [part.partition("=") for part in _one(headers, "stripe-signature").split(",")]
    times = [value for name, _, value in parts if name.strip() == "t"]
    if len(times) != 1:
        raise Unsigned("webhook_signature_malformed")
    time = _digits(times[0])
    signatures = [_hex(value) for name, _, value in parts if name.strip() == "v1"]
    return Claim(_few(signatures), before=f"{time}.".encode(), time=int(time))


def _standard(headers: Headers) -> Claim:
    """https://github.com/standard-webhooks/standard-webhooks, "Signature scheme"; v1 is symmetric."""
    name, time = _one(headers, "webhook-id"), _digits(_one(headers, "webhook-timestamp"))
    if _ID.fullmatch(name) is None:
        raise Unsigned("webhook_signature_malformed")
    signatures = [
        _base64(text.removeprefix("v1,"))
        for text in _one(headers, "webhook-signature").split(" ")
        if text.startswith("v1,")
    ]
    return Claim(_few(signatures), before=f"{name}.{time}.".encode(), time=int(time))


_KNOWN = {
    "github": Format(_github, ("x-hub-signature-256",), timed=False),
    "slack": Format(_slack, ("x-slack-signature",)),
    "stripe": Format(_stripe, ("stripe-signature",)),
    "standard-webhooks": Format(_standard, ("webhook-signature",)),
}


def _own(described: Mapping[str, Any]) -> Format:
    header = _name(described, "header")
    timestamp = _name(described, "timestamp_header") if "timestamp_header" in described else None
    prefix = described.get("prefix", "")
    decode = _hex if described.get("encoding", "hex") == "hex" else _base64
    signed = described.get("signed", _BODY)
    if signed.count(_BODY) != 1:
        raise ParameterError("must hold {body} once", "/hmac/signed")
    if signed.count(_TIMESTAMP) != (timestamp is not None):
        raise ParameterError("must hold {timestamp} once with a timestamp_header, and not without", "/hmac/signed")
    before, _, after = signed.partition(_BODY)

    def read(headers: Headers) -> Claim:
        signatures = (decode(_after(_one(headers, header), prefix)),)
        if timestamp is None:
            return Claim(signatures, before.encode(), after.encode())
        time = _digits(_one(headers, timestamp))
        first, last = (part.replace(_TIMESTAMP, time).encode() for part in (before, after))
        return Claim(signatures, first, last, int(time))

    return Format(read, (header,), described.get("algorithm", "sha256"), timed=timestamp is not None)


def _name(described: Mapping[str, Any], key: str) -> str:
    try:
        return header_name(described[key])
    except ValueError as error:
        raise ParameterError(str(error), f"/hmac/{key}") from None


def _one(headers: Headers, name: str) -> str:
    """Return the value of a header that is there once."""
    values = headers.get_all(name)
    if not values or values == ("",):
        raise Unsigned("webhook_signature_missing")
    if len(values) > 1:
        raise Unsigned("webhook_signature_malformed")
    return values[0]


def _after(text: str, prefix: str) -> str:
    if not text.startswith(prefix):
        raise Unsigned("webhook_signature_malformed")
    return text[len(prefix) :]


def _digits(text: str) -> str:
    if _DIGITS.fullmatch(text) is None:
        raise Unsigned("webhook_signature_malformed")
    return text


def _few(signatures: Sequence[bytes]) -> tuple[bytes, ...]:
    if not 1 <= len(signatures) <= _MOST_SIGNATURES:
        raise Unsigned("webhook_signature_malformed" if signatures else "webhook_signature_missing")
    return tuple(signatures)


def _hex(text: str) -> bytes:
    try:
        return binascii.unhexlify(text)
    except ValueError:
        raise Unsigned("webhook_signature_malformed") from None


def _base64(text: str) -> bytes:
    found = _decoded(text)
    if found is None:
        raise Unsigned("webhook_signature_malformed")
    return found


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None
