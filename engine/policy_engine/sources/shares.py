"""Shares of requests as people write them: `share: 5%`, `share: {percent: 5%, by: …}`, `versions: {v2: 5%, v1: 95%}`.

A separate module because shares that are to be all of the requests together have to be exact: in decimals, not floats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.documents.fields import Fields
from policy_engine.documents.json_types import type_in_words
from policy_engine.documents.yaml_document import Document
from policy_engine.sdk.json_pointer import Path
from policy_engine.worker.chains.spec import WHOLE, Share
from policy_engine.worker.conditions.condition import check_text

SHARE_KEYS = ("percent", "by")
VERSION_KEYS = ("share", "parameters")
PERCENT = r"[0-9]{1,3}(\.[0-9]{1,4})?%"
PERCENT_FORM = "0% to 100%, with up to four decimals"
MAX_BY = 4096
MAX_VERSIONS = 16

_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)%?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Variant:
    """A version that an entry may run as; `parameters` is where its parameters are, within the entry."""

    version: Any
    within: Path
    parameters: Path
    share: Share | None


def read_share(fields: Fields, document: Document, path: Path, diagnostics: list[Diagnostic]) -> Share | None:
    """Return the `share` of the entry that `fields` reads, which stands at `path`; None for all requests."""
    value = fields.raw("share")
    if "share" not in fields:
        return None
    if not isinstance(value, dict):
        part = _percent(fields, ("share",), value)
        return None if part is None else Share(0, part)
    own = Fields(document, (*path, "share"), SHARE_KEYS, diagnostics, "a share")
    by = _by(own)
    if "percent" not in own:
        own.error((), "lacks the required key 'percent'", rule=Rule.MISSING_KEY, allowed=PERCENT_FORM)
        return None
    part = _percent(own, ("percent",), own.raw("percent"), unit=False)
    return None if part is None else Share(0, part, by)


def read_variants(fields: Fields, document: Document, path: Path, diagnostics: list[Diagnostic]) -> list[Variant]:
    """Return the versions of an entry with `versions`, each with its share; they are all requests together."""
    value = fields.raw("versions")
    if not isinstance(value, dict) or not 1 <= len(value) <= MAX_VERSIONS:
        got = f"{len(value)} entries" if isinstance(value, dict) else type_in_words(value)
        reason = f"must be an object of versions and their shares, such as {{v2: 5%, v1: 95%}}, not {got}"
        fields.error(("versions",), reason, rule=Rule.WRONG_TYPE)
        return []
    for other in ("version", "share"):
        if other in fields and not (other == "share" and _has_only_by(fields.raw("share"))):
            text = "write it as share: {by: …}, which chooses the key alone" if other == "share" else "leave one out"
            fields.error((other,), f"stands beside `versions`, which says the same; {text}")
            return []
    by = ""
    if "share" in fields:
        by = _by(Fields(document, (*path, "share"), SHARE_KEYS, diagnostics, "a share"))
    found, low = [], 0
    for version, written in value.items():
        within: Path = ("versions", version)
        parameters: Path = ("parameters",)
        if isinstance(written, dict):
            own = Fields(document, (*path, *within), VERSION_KEYS, diagnostics, "a version's share")
            if "parameters" in own:
                parameters = (*within, "parameters")
            part = _percent(own, ("share",), own.raw("share"))
        else:
            part = _percent(fields, within, written)
        if part is None:
            return []
        found.append(Variant(version, within, parameters, Share(low, low + part, by)))
        low += part
    if low != WHOLE:
        total = f"{(Decimal(low) * 100 / WHOLE).normalize():f}%"
        fields.error(("versions",), "the shares must be all requests together", value=total, allowed="100%")
        return []
    return found


def _has_only_by(value: Any) -> bool:
    return isinstance(value, dict) and "percent" not in value


def _by(fields: Fields) -> str:
    by = fields.text("by", longest=MAX_BY)
    for problem in _problems(by) if by is not None else ():
        fields.error(("by",), problem, rule=Rule.CONDITION)
    return by or ""


@lru_cache(maxsize=1024)
def _problems(text: str) -> tuple[str, ...]:
    return tuple(map(str, check_text(text)))


def _percent(fields: Fields, within: Path, value: Any, *, unit: bool = True) -> int | None:
    """Return a percentage in millionths; with `unit` the sign has to be there."""
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    match = _PERCENT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        got = None if isinstance(value, dict | list) else value
        fields.error(within, "is not a share of the requests", value=got, allowed=PERCENT_FORM)
        return None
    if unit and not text.endswith("%"):
        fields.error(within, f"has no unit (write {match[1]}%)", value=value, allowed=PERCENT_FORM)
        return None
    part = int(Decimal(match[1]) * WHOLE / 100)
    if part > WHOLE:
        fields.error(within, "is more than all requests", value=value, allowed=PERCENT_FORM)
        return None
    return part
