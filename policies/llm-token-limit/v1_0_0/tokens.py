"""How many tokens a prompt has, by estimate, and what of it is capped; apart as it is one pure function of a body.

A tokenizer belongs to one model and weighs megabytes; characters divided by a number is what holds for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policy_body import NotJson, dump, parse
from policy_llm import PROMPT_MEMBERS

_IMAGES = ("image_url", "input_image", "image")
_FILES = ("inlineData", "inline_data", "fileData", "file_data")
_CAPPED = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_DEFAULT_FIELD = "max_tokens"
_LISTS_OF_MESSAGES = ("messages", "contents", "input")


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
    changed = _capped(document, bounds) | _asked_for_usage(document, bounds)
    estimate = tokens + tokens_of(characters, bounds.characters_per_token)
    return Measured(estimate=estimate, body=dump(document) if changed else None)


def tokens_of(characters: int, characters_per_token: float) -> int:
    """Return the tokens of so many characters, rounded up."""
    return int(characters / characters_per_token + 0.999999)


def prompt_size(document: Mapping[str, Any], image_tokens: int) -> tuple[int, int]:
    """Return the characters of everything in the request that the model reads, and tokens that are none.

    Those are token ids in the prompt, images, and 4 for each message. Names of members count, as they do in tools.
    """
    characters = tokens = 0
    stack = [document[name] for name in PROMPT_MEMBERS if name in document]
    for name in _LISTS_OF_MESSAGES:
        messages = document.get(name)
        if isinstance(messages, list):
            tokens += 4 * sum(isinstance(one, dict) for one in messages)
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            characters += len(value)
        elif isinstance(value, dict):
            if value.get("type") in _IMAGES or any(name in value for name in _FILES):
                tokens += image_tokens
            else:
                characters += sum(map(len, value))
                stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
        elif value is not None:
            tokens += 1
    return characters, tokens


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


def _asked_for_usage(document: dict[str, Any], bounds: Bounds) -> bool:
    """Ask for usage in the streams of chat completions; the other APIs send it unasked and refuse the member."""
    if not bounds.asks_usage or document.get("stream") is not True or "input" in document:
        return False
    options = document.get("stream_options")
    wanted = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    if wanted == options:
        return False
    document["stream_options"] = wanted
    return True
