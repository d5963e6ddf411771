"""How many tokens a prompt has, by estimate: characters divided by a number, as a tokenizer belongs to one model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policy_llm.requests import PROMPT_MEMBERS

_IMAGES = ("image_url", "input_image", "image")
_FILES = ("inlineData", "inline_data", "fileData", "file_data")
_LISTS_OF_MESSAGES = ("messages", "contents", "input")


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
