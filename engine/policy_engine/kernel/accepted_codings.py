"""Keeps upstreams from answering in a content coding that the engine cannot undo, where policies read bodies whole.

Browsers accept zstd. No policy could read an answer in it, and those that fail closed would refuse it.
"""

from __future__ import annotations

from policy_engine.kernel.content_coding import CODINGS
from policy_engine.sdk import Headers, RequestMutation, list_members
from policy_engine.sdk.headers import HeaderEdit, apply_edit, encode_value
from policy_engine.worker.chains.executor import Outcome

NAME = "accept-encoding"

_KEPT = CODINGS | {"identity", "x-gzip"}
_ANY = "*"
_MOST_CACHED = 256
_LONGEST_CACHED = 256

Change = tuple[RequestMutation, HeaderEdit]
_known: dict[tuple[str, ...], Change | None] = {}


def narrow(headers: Headers, outcome: Outcome) -> None:
    """Leave in `accept-encoding` what the engine can undo; a change is the first of `outcome`, and policies see it.

    A request without the header is left as it is: its answer may come in any coding, and comes in none (RFC 9110,
    12.5.3).
    """
    if NAME not in headers:
        return
    change = _change(headers.get_all(NAME))
    if change is not None:
        action, edit = change
        apply_edit(headers, edit)
        outcome.actions.append(action)
        outcome.edits.append(edit)


def _change(values: tuple[str, ...]) -> Change | None:
    """Return the same objects for the same values, so that replies made of them can be used again."""
    if values in _known:
        return _known[values]
    value = _narrowed(values)
    change = None
    if value is not None:
        edit = HeaderEdit((), ((NAME, encode_value(value), False),), whole=True)
        change = RequestMutation(set_headers={NAME: value}), edit
    if sum(map(len, values)) <= _LONGEST_CACHED:
        if len(_known) >= _MOST_CACHED:
            _known.clear()
        _known[values] = change
    return change


def _narrowed(values: tuple[str, ...]) -> str | None:
    """Return the value to send instead; None for one that names nothing else than what the engine can undo."""
    members = list_members(values)
    kept, dropped = [], False
    for member in members:
        coding, semicolon, weight = member.partition(";")
        name = coding.strip().lower()
        if name in _KEPT:
            kept.append(member)
        elif name == _ANY:
            named = {one.partition(";")[0].strip().lower() for one in members}
            kept += [f"{one}{semicolon}{weight}" for one in sorted(CODINGS - named)]
            dropped = True
        else:
            dropped = True
    if not dropped:
        return None
    return ", ".join(kept) or "identity"
