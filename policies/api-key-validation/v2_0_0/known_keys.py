"""The keys as they are looked up: by their hash, so that fifteen thousand cost as much as fifteen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from policy_engine.sdk import ParameterError, header_value

_HASH = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_WORDS = ("client", "tier", "project")
_FIELDS = frozenset({*_WORDS, "sha256", "groups", "expires"})
_LONGEST = 256
_MOST_GROUPS = 100
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key: `digest` of salt and key, `facts` for others, `expires` in seconds since 1970."""

    digest: bytes
    facts: Mapping[str, Any]
    expires: float


Keys = Mapping[bytes, Key]


def keys_of(entries: Iterable[tuple[str, Any]]) -> dict[bytes, Key]:
    """Return the keys by their digests.

    Each comes with where it stands, a JSON Pointer for the ParameterError that is raised for a wrong one. The error's
    text holds nothing of a hash.
    """
    found: dict[bytes, Key] = {}
    for where, entry in entries:
        key = _key(entry, where)
        if key.digest in found:
            raise ParameterError("this key is listed twice", f"{where}/sha256")
        found[key.digest] = key
    return found


def keys_in(lines: Iterable[str]) -> dict[bytes, Key]:
    """Return the keys of a file with one JSON object in each line; raises ParameterError with the line as its path."""
    return keys_of((f"/{number}", _object(line, number)) for number, line in enumerate(lines, 1) if line.strip())


def _object(line: str, number: int) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_unique)
    except _Twice as error:
        raise ParameterError(f"has the field {error} twice", f"/{number}") from None
    except (ValueError, RecursionError):
        raise ParameterError("is no JSON object", f"/{number}") from None


class _Twice(Exception):
    """An object has a field twice, so that readers could differ on what it says."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Twice(name if name in _FIELDS else "of one name")
        found[name] = value
    return found


def _key(entry: Any, where: str) -> Key:
    if not isinstance(entry, Mapping):
        raise ParameterError("is no JSON object", where)
    if not entry.keys() <= _FIELDS:
        raise ParameterError(f"has a field that no key has; known: {', '.join(sorted(_FIELDS))}", where)
    facts: dict[str, Any] = {name: _word(entry[name], f"{where}/{name}") for name in _WORDS if name in entry}
    if "client" not in facts:
        raise ParameterError("has no client", where)
    digest = entry.get("sha256")
    if not isinstance(digest, str) or _HASH.fullmatch(digest) is None:
        raise ParameterError("must be a SHA-256 hash in hexadecimal", f"{where}/sha256")
    if "groups" in entry:
        groups = entry["groups"]
        if not isinstance(groups, list) or len(groups) > _MOST_GROUPS:
            raise ParameterError(f"must be a list of at most {_MOST_GROUPS} names", f"{where}/groups")
        facts["groups"] = [_word(one, f"{where}/groups/{index}") for index, one in enumerate(groups)]
    expires = _NEVER
    if "expires" in entry:
        expires = _time(entry["expires"], f"{where}/expires")
        facts["expires"] = entry["expires"]
    return Key(bytes.fromhex(digest), facts, expires)


def _word(text: Any, where: str) -> str:
    if not isinstance(text, str) or not 0 < len(text) <= _LONGEST:
        raise ParameterError(f"must be text of 1 to {_LONGEST} characters", where)
    try:
        return header_value(text)
    except ValueError as error:
        raise ParameterError(str(error), where) from None


def _time(text: Any, where: str) -> float:
    try:
        time = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        time = None
    if time is None or time.tzinfo is None:
        raise ParameterError("must be a time with its offset, such as 2027-01-31T00:00:00Z", where)
    return time.timestamp()
