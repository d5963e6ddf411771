"""How many tokens a text, a prompt or an answer has, by estimate; apart so that the rule stands in one place.

A tokenizer belongs to one model and weighs megabytes; characters divided by a number is what holds for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_PROMPT = ("messages", "prompt", "input", "instructions", "system", "tools", "functions", "response_format")
_IMAGES = ("image_url", "input_image", "image")


def prompt_size(document: Mapping[str, Any], image_tokens: int) -> tuple[int, int]:
    """Return the characters of everything in the request that the model reads, and tokens that are none.

    Those are token ids in the prompt, images, and 4 for each message. Names of members count, as they do in tools.
    """
    characters = tokens = 0
    stack = [document[name] for name in _PROMPT if name in document]
    messages = document.get("messages")
    if isinstance(messages, list):
        tokens += 4 * len(messages)
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            characters += len(value)
        elif isinstance(value, dict):
            if value.get("type") in _IMAGES:
                tokens += image_tokens
            else:
                characters += sum(map(len, value))
                stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
        elif value is not None:
            tokens += 1
    return characters, tokens


def answer_characters(document: Mapping[str, Any]) -> int:
    """Return the characters that the model wrote in an answer or in one event of it."""
    return sum(len(text) for choice in choices(document) for text in _texts(choice))


def choices(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the choices of an answer or event, without what is none."""
    found = document.get("choices")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def usage_of(document: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the usage that the upstream reports, None when there is none; only plain counts are taken over."""
    usage = document.get("usage")
    if not isinstance(usage, dict):
        return None
    found = {}
    for name, other in (
        ("prompt_tokens", "input_tokens"),
        ("completion_tokens", "output_tokens"),
        ("total_tokens", ""),
    ):
        value = usage.get(name, usage.get(other))
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53:
            found[name] = value
    return found or None


def _texts(choice: Mapping[str, Any]) -> Iterator[str]:
    """Yield every text below delta, message or text, but roles, types and ids."""
    stack = [choice.get(name) for name in ("delta", "message", "text")]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            stack.extend(item for name, item in value.items() if name not in ("role", "type", "id"))
        elif isinstance(value, list):
            stack.extend(value)
