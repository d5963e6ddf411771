"""How many tokens a prompt has, and what of it is capped; apart as it is one pure function of a body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policy_body import NotJson, dump, parse
from policy_llm import asks_for_usage, prompt_size, tokens_of

_CAPPED = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_DEFAULT_FIELD = "max_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a request is held to; the parameters of the policy that are about requests."""

    cap: int | None = None
    cap_field: str = _DEFAULT_FIELD
    asks_usage: bool = False
    characters_per_token: float = 4
    image_tokens: int = 1000


@dataclass(frozen=True, slots=True)
class Measured:
    """A request: what is wrong with it, else its estimate, and its new body when that changed."""

    fault: str = ""
    estimate: int = 0
    body: bytes | None = None


def measure(bounds: Bounds, body: bytes) -> Measured:
    """Estimate the prompt in a body and cap what it asks for."""
    try:
        document = parse(body)
    except NotJson as error:
        return Measured(f"The body is not valid JSON: {error}.")
    if not isinstance(document, dict):
        return Measured("The body is not a JSON object.")
    characters, tokens = prompt_size(document, bounds.image_tokens)
    changed = _capped(document, bounds) | (bounds.asks_usage and asks_for_usage(document))
    estimate = tokens + tokens_of(characters, bounds.characters_per_token)
    return Measured(estimate=estimate, body=dump(document) if changed else None)


def _capped(document: dict[str, Any], bounds: Bounds) -> bool:
    """Cap the members that say how long the answer may be, where each API has them; tell whether anything changed."""
    if bounds.cap is None:
        return False
    names = [name for name in _CAPPED if document.get(name) is not None]
    for nested in ("generationConfig", "generation_config"):
        inner = document.get(nested)
        if "contents" in document and isinstance(inner, dict):
            members = [name for name in ("maxOutputTokens", "max_output_tokens") if inner.get(name) is not None]
            return _cap(document, names, bounds.cap) | _cap(inner, members or ["maxOutputTokens"], bounds.cap)
    if "contents" in document and not names:
        document["generationConfig"] = {"maxOutputTokens": bounds.cap}
        return True
    return _cap(document, names or [_field(document, bounds)], bounds.cap)


def _field(document: dict[str, Any], bounds: Bounds) -> str:
    """Return where the cap goes: OpenAI's Responses, which have `input`, know no other field than their own."""
    is_response = "input" in document and "messages" not in document
    return "max_output_tokens" if is_response and bounds.cap_field == _DEFAULT_FIELD else bounds.cap_field


def _cap(holder: dict[str, Any], names: list[str], cap: int) -> bool:
    changed = False
    for name in names:
        asked = holder.get(name)
        if not isinstance(asked, int) or isinstance(asked, bool) or not 0 <= asked <= cap:
            holder[name] = cap
            changed = True
    return changed
