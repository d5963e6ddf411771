"""What a model reads of a request, in any of the APIs: all of it but the names of things and what is no text.

A separate module from answers because the aim is another: a client is no friend, so nothing passes for having a name
that is not expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""The roles of chat completions; Gemini's `model` counts as assistant."""

PROMPT_MEMBERS = (
    "messages",
    "prompt",
    "suffix",
    "input",
    "instructions",
    "system",
    "contents",
    "systemInstruction",
    "system_instruction",
    "tools",
    "functions",
    "response_format",
    "text",
    "output_config",
    "generationConfig",
    "generation_config",
)
"""Members of requests that a model reads, as the APIs name them."""

_ASKS = frozenset({"messages", "prompt", "input", "contents"})
_ROLES = {**{role: role for role in ROLES}, "model": "assistant"}
_SYSTEM = frozenset({"instructions", "system", "systemInstruction", "system_instruction"})
_NAMES = frozenset(
    {"type", "model", "id", "call_id", "item_id", "tool_call_id", "tool_use_id", "previous_response_id", "file_id"}
    | {"user", "safety_identifier", "prompt_cache_key", "service_tier", "cachedContent", "container", "conversation"}
    | {"mime_type", "mimeType", "media_type", "format", "detail", "object", "status", "fileUri", "file_uri"}
)
"""Members that name things to the API, not to the model, as long as the value is one plain word."""

_OPAQUE = frozenset({"encrypted_content", "signature", "thoughtSignature", "thought_signature"})
_BYTES = frozenset({"data", "url", "image_url", "file_data", "file_url", "video_url", "audio_url", "b64_json"})
_UNREAD = frozenset({"metadata", "logit_bias"})  # of the request itself; kept beside it, not given to the model
_FREE = frozenset({"variables", "args", "arguments", "response"})
"""Members whose contents have names of the client's own: all names and texts below are the model's to read."""

_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})
"""Members of JSON Schema whose members have names of the client's own."""

_WORD = re.compile(r"[\w.:/+-]{1,256}", re.ASCII)
_BASE64 = re.compile(r"[\w+/=-]*", re.ASCII)
_ADDRESS = re.compile(r"(?:data|https?|gs|s3|file):\S*", re.IGNORECASE)


class Place(NamedTuple):
    """One text of a request and where it stands. `is_name`: it is the name of a member, and cannot be replaced."""

    holder: Any
    key: str | int
    role: str = ""
    is_name: bool = False

    @property
    def text(self) -> str:
        """The text."""
        found: str = self.key if self.is_name else self.holder[self.key]  # type: ignore[assignment]
        return found

    def replace(self, text: str) -> None:
        """Put another text there."""
        self.holder[self.key] = text


def is_prompt(document: dict[str, Any]) -> bool:
    """Tell whether a request is one to a model, as far as the APIs' own names say so."""
    return not _ASKS.isdisjoint(document)


def places(document: dict[str, Any]) -> Iterator[Place]:
    """Yield all texts that a model may read, in order: of known members and of all others, at any depth.

    Not among them: roles that are known, plain words that name things to the API (types, ids, the model), addresses,
    and bytes of images and files. Names of members are among them where clients make them up, and wherever they are no
    plain words. `role` is that of the message, `system` for instructions, empty where there is none.
    """
    stack: list[tuple[Any, str | int, str, bool]] = [
        (document, name, "system" if name in _SYSTEM else "", False)
        for name in reversed(document)
        if name not in _UNREAD
    ]
    names: set[str] = set()  # that were looked at: most objects have the same ones
    yield from _names(document, names, free=False)
    while stack:
        holder, key, role, free = stack.pop()
        value = holder[key]
        if isinstance(value, str):
            if free or isinstance(key, int) or _is_read(holder, key, value):
                yield Place(holder, key, role)
        elif isinstance(value, list):
            stack += [(value, at, role, free) for at in reversed(range(len(value)))]
        elif isinstance(value, dict):
            free = free or key in _FREE or (key == "input" and holder is not document)
            named = free or key in _NAMED
            yield from _names(value, names, free=named)
            own = role or ("" if free else _role(value))
            stack += [(value, name, own, free) for name in reversed(value)]


def _names(holder: dict[str, Any], seen: set[str], *, free: bool) -> Iterator[Place]:
    for name in holder:
        if name not in seen and (free or not _WORD.fullmatch(name)):
            seen.add(name)
            yield Place(holder, name, is_name=True)


def _role(message: dict[str, Any]) -> str:
    """Return a role that is known; none when a server that does not mind case could read another one."""
    found = [value for name, value in message.items() if name.lower() == "role"]
    return _ROLES.get(found[0], "") if len(found) == 1 and isinstance(found[0], str) and "role" in message else ""


def _is_read(holder: dict[str, Any], name: str, value: str) -> bool:
    if name == "role":
        return value not in _ROLES
    if name in _NAMES:
        return not _WORD.fullmatch(value)
    if name in _OPAQUE:
        return not _BASE64.fullmatch(value)
    if name not in _BYTES:
        return True
    if _ADDRESS.fullmatch(value):
        return False
    kinds = [holder.get(one) for one in ("type", "mimeType", "mime_type", "media_type", "format")]
    is_bytes = any(isinstance(kind, str) and not kind.startswith("text") for kind in kinds)
    return not (is_bytes and _BASE64.fullmatch(value))
