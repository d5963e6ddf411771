"""When certificates expire, as their files say: the time of the first of a file that does.

Only the validity is read (RFC 5280, 4.1.2.5), by walking over what stands before it, since the standard library shows
it of peers alone.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from policy_engine.telemetry.samples import Samples

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_VERSION = 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_BEFORE_VALIDITY = 3
"""Serial number, signature algorithm, issuer."""


def certificate_samples(files: Mapping[str, Path]) -> Samples:
    """Return when the certificates of `files` expire, by the settings that name them; unreadable ones are left out."""
    rows = []
    for setting, file in files.items():
        try:
            rows.append(({"setting": setting}, expiration(file.read_bytes())))
        except (OSError, ValueError):
            continue
    return {"policy_engine_certificate_expiration_timestamp_seconds": rows} if rows else {}


def expiration(pem: bytes) -> float:
    """Return when the first of these certificates expires, in seconds since the epoch; raises ValueError for none."""
    ends = [_not_after(b64decode(text)) for text in _PEM.findall(pem)]
    if not ends:
        raise ValueError("holds no certificate")
    return min(ends)


def _not_after(certificate: bytes) -> float:
    _, whole, _ = _element(certificate)
    tag, rest, _ = _element(whole)
    tag, _, after = _element(rest)
    if tag == _VERSION:
        rest = after
    for _ in range(_BEFORE_VALIDITY):
        _, _, rest = _element(rest)
    _, validity, _ = _element(rest)
    _, _, rest = _element(validity)
    tag, text, _ = _element(rest)
    if tag == _UTC_TIME:
        # Two digits of the year: from 50 on they are of the last century.
        text = (b"19" if text[:2] >= b"50" else b"20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("holds a validity without a time")
    return datetime.strptime(text.decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _element(encoded: bytes) -> tuple[int, bytes, bytes]:
    """Return tag and content of the first element of DER, and what follows it."""
    if len(encoded) < 2:
        raise ValueError("ends within a certificate")
    tag, length, start = encoded[0], encoded[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(encoded[2:start])
    if len(encoded) < start + length:
        raise ValueError("ends within a certificate")
    return tag, encoded[start : start + length], encoded[start + length :]
