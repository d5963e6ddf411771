"""Requests of one API as requests of the other: OpenAI's chat completions and Anthropic's messages.

What has no counterpart is refused, unless the operator wants it dropped: an answer to another question than was asked
is worse than none. https://platform.openai.com/docs/api-reference/chat, https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from policy_body import NotJson, dump, parse

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,([A-Za-z0-9+/=]*)", re.ASCII)

_OPENAI = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "stream", "tools"}
    | {"tool_choice", "parallel_tool_calls", "user", "stream_options", "n"}
)
_OPENAI_ABOUT_NOTHING = frozenset({"store", "metadata", "service_tier", "prompt_cache_key", "safety_identifier"})
_ANTHROPIC = frozenset(
    {"model", "messages", "system", "max_tokens", "temperature", "top_p", "stop_sequences", "stream", "tools"}
    | {"tool_choice", "metadata"}
)
_ANTHROPIC_ABOUT_NOTHING = frozenset({"service_tier"})
_TEMPERATURE = 1.0  # the largest of Anthropic's; OpenAI's goes to 2


class Untranslatable(ValueError):
    """The request cannot be said in the other API; the text may be shown to the client."""


def to_anthropic(document: Mapping[str, Any], *, max_tokens: int, drops: bool) -> dict[str, Any]:
    """Return a request to chat completions as one for messages; raises Untranslatable."""
    _check(document, _OPENAI, _OPENAI_ABOUT_NOTHING, drops)
    if document.get("n") not in (None, 1) and not drops:
        raise Untranslatable("n: there is one choice")
    system, messages = _conversation(document, drops)
    cap = document.get("max_completion_tokens") or document.get("max_tokens") or max_tokens
    made: dict[str, Any] = {"model": document.get("model"), "messages": messages, "max_tokens": cap}
    if system:
        made["system"] = system
    _copy(document, made, "top_p", "stream")
    temperature = document.get("temperature")
    if isinstance(temperature, int | float) and not isinstance(temperature, bool):
        made["temperature"] = min(temperature, _TEMPERATURE)
    stop = document.get("stop")
    if stop is not None:
        made["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    if document.get("user") is not None:
        made["metadata"] = {"user_id": document["user"]}
    if document.get("tools"):
        made["tools"] = [_tool_to_anthropic(one, drops) for one in _objects(document["tools"], "tools")]
        choice = _choice_to_anthropic(document)
        if choice:
            made["tool_choice"] = choice
    return made


def to_openai(document: Mapping[str, Any], *, cap_field: str, drops: bool) -> dict[str, Any]:
    """Return a request for messages as one to chat completions; raises Untranslatable."""
    _check(document, _ANTHROPIC, _ANTHROPIC_ABOUT_NOTHING, drops)
    messages: list[dict[str, Any]] = []
    if document.get("system"):
        messages.append({"role": "system", "content": _plain(document["system"], "system", drops)})
    for at, message in enumerate(_objects(document.get("messages"), "messages")):
        role, content = message.get("role"), message.get("content")
        if role not in ("user", "assistant"):
            raise Untranslatable(f"messages/{at}: a role is user or assistant")
        blocks = (
            [{"type": "text", "text": content}] if isinstance(content, str) else _objects(content, f"messages/{at}")
        )
        messages += _assistant(blocks, at, drops) if role == "assistant" else _user(blocks, at, drops)
    made: dict[str, Any] = {"model": document.get("model"), "messages": messages}
    if document.get("max_tokens") is not None:
        made[cap_field] = document["max_tokens"]
    _copy(document, made, "temperature", "top_p", "stream")
    if document.get("stream") is True:
        made["stream_options"] = {"include_usage": True}
    if document.get("stop_sequences"):
        made["stop"] = document["stop_sequences"]
    user = _member(document.get("metadata"), "user_id")
    if isinstance(user, str):
        made["user"] = user
    if document.get("tools"):
        made["tools"] = [_tool_to_openai(one, drops) for one in _objects(document["tools"], "tools")]
        choice = document.get("tool_choice")
        if choice is not None:
            made["tool_choice"] = _choice_to_openai(choice)
            if _member(choice, "disable_parallel_tool_use") is True:
                made["parallel_tool_calls"] = False
    return made


def _conversation(document: Mapping[str, Any], drops: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the blocks of the system's prompt, and the messages of user and assistant in turn."""
    system: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    for at, message in enumerate(_objects(document.get("messages"), "messages")):
        role = message.get("role")
        if role in ("system", "developer"):
            system += _blocks(message.get("content"), f"messages/{at}", drops)
        elif role == "user":
            _say(messages, "user", _blocks(message.get("content"), f"messages/{at}", drops))
        elif role == "assistant":
            _say(
                messages, "assistant", [*_blocks(message.get("content"), f"messages/{at}", drops), *_uses(message, at)]
            )
        elif role == "tool":
            content = _blocks(message.get("content"), f"messages/{at}", drops)
            result = {"type": "tool_result", "tool_use_id": _text(message, "tool_call_id", at), "content": content}
            _say(messages, "user", [result])
        else:
            raise Untranslatable(f"messages/{at}: a role is system, developer, user, assistant or tool")
    return system, messages


def _check(document: Mapping[str, Any], known: frozenset[str], about_nothing: frozenset[str], drops: bool) -> None:
    unknown = [name for name, value in document.items() if name not in known | about_nothing and value is not None]
    if unknown and not drops:
        raise Untranslatable(f"{unknown[0][:100]}: the API of the model has no such member")


def _copy(document: Mapping[str, Any], made: dict[str, Any], *names: str) -> None:
    made.update({name: document[name] for name in names if document.get(name) is not None})


def _say(messages: list[dict[str, Any]], role: str, blocks: Sequence[dict[str, Any]]) -> None:
    """Add to the last message when it is of the same role: results of tools belong into one."""
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"] += blocks
    elif blocks:
        messages.append({"role": role, "content": list(blocks)})


def _blocks(content: Any, where: str, drops: bool) -> list[dict[str, Any]]:
    """Return the content of a chat message as blocks."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    found = []
    for part in _objects(content, where):
        kind = part.get("type")
        if kind in ("text", "refusal") and isinstance(part.get(kind), str):
            found.append({"type": "text", "text": part[kind]})
        elif kind == "image_url" and isinstance(url := _member(part.get("image_url"), "url"), str):
            data = _DATA_URL.fullmatch(url)
            source = {"type": "url", "url": url}
            if data is not None:
                source = {"type": "base64", "media_type": data[1], "data": data[2]}
            found.append({"type": "image", "source": source})
        elif not drops:
            raise Untranslatable(f"{where}: a part is a text or an image")
    return found


def _uses(message: Mapping[str, Any], at: int) -> Iterable[dict[str, Any]]:
    for call in _objects(message.get("tool_calls") or [], f"messages/{at}/tool_calls"):
        function = call.get("function")
        name, arguments = _member(function, "name"), _member(function, "arguments")
        if not isinstance(name, str) or not isinstance(arguments, str) or not isinstance(call.get("id"), str):
            raise Untranslatable(f"messages/{at}/tool_calls: a call has an id and a function")
        try:
            given = parse(arguments.encode()) if arguments else {}
        except (NotJson, UnicodeEncodeError):
            given = None
        if not isinstance(given, dict):
            raise Untranslatable(f"messages/{at}/tool_calls: arguments are a JSON object")
        yield {"type": "tool_use", "id": call["id"], "name": name, "input": given}


def _tool_to_anthropic(tool: Mapping[str, Any], drops: bool) -> dict[str, Any]:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Untranslatable("tools: a tool is a function with a name")
    if function.get("strict") and not drops:
        raise Untranslatable("tools: strict is not known")
    made = {
        "name": function["name"],
        "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
    }
    _copy(function, made, "description")
    return made


def _tool_to_openai(tool: Mapping[str, Any], drops: bool) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom") or not isinstance(tool.get("name"), str):
        raise Untranslatable("tools: a tool has a name and an input_schema")
    function = {"name": tool["name"], "parameters": tool.get("input_schema")}
    _copy(tool, function, "description")
    return {"type": "function", "function": function}


def _choice_to_anthropic(document: Mapping[str, Any]) -> dict[str, Any]:
    choice = document.get("tool_choice")
    named = {None: "auto", "auto": "auto", "none": "none", "required": "any"}
    if isinstance(choice, dict) and isinstance(name := _member(choice.get("function"), "name"), str):
        made: dict[str, Any] = {"type": "tool", "name": name}
    elif choice is None or (isinstance(choice, str) and choice in named):
        made = {"type": named[choice]}
    else:
        raise Untranslatable("tool_choice: auto, none, required or a function")
    single = document.get("parallel_tool_calls") is False and made["type"] != "none"
    if choice is None and not single:
        return {}
    return {**made, "disable_parallel_tool_use": True} if single else made


def _choice_to_openai(choice: Any) -> Any:
    kind = _member(choice, "type")
    if kind == "tool" and isinstance(name := _member(choice, "name"), str):
        return {"type": "function", "function": {"name": name}}
    named = {"auto": "auto", "any": "required", "none": "none"}
    if not isinstance(kind, str) or kind not in named:
        raise Untranslatable("tool_choice: auto, any, none or a tool")
    return named[kind]


def _user(blocks: Sequence[Mapping[str, Any]], at: int, drops: bool) -> list[dict[str, Any]]:
    """Return results of tools as messages of their own, before what the user says."""
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for block in blocks:
        kind = block.get("type")
        if kind == "tool_result":
            content = _plain(block.get("content") or "", f"messages/{at}", drops)
            results.append({"role": "tool", "tool_call_id": _text(block, "tool_use_id", at), "content": content})
        elif kind == "text":
            parts.append({"type": "text", "text": _text(block, "text", at)})
        elif kind == "image" and (url := _image(block.get("source"))):
            parts.append({"type": "image_url", "image_url": {"url": url}})
        elif not drops:
            raise Untranslatable(f"messages/{at}: a block is a text, an image or the result of a tool")
    only = parts[0].get("text") if len(parts) == 1 else None
    said = [{"role": "user", "content": parts if only is None else only}] if parts else []
    return [*results, *said]


def _image(source: Any) -> str:
    kind, media_type, data = (_member(source, name) for name in ("type", "media_type", "data"))
    if kind == "base64" and isinstance(media_type, str) and isinstance(data, str):
        return f"data:{media_type};base64,{data}"
    url = _member(source, "url")
    return url if kind == "url" and isinstance(url, str) else ""


def _assistant(blocks: Sequence[Mapping[str, Any]], at: int, drops: bool) -> list[dict[str, Any]]:
    texts, calls = [], []
    for block in blocks:
        kind = block.get("type")
        if kind == "text":
            texts.append(_text(block, "text", at))
        elif kind == "tool_use":
            function = {"name": _text(block, "name", at), "arguments": dump(block.get("input") or {}).decode()}
            calls.append({"id": _text(block, "id", at), "type": "function", "function": function})
        elif kind not in ("thinking", "redacted_thinking") and not drops:
            raise Untranslatable(f"messages/{at}: a block is a text or the use of a tool")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None}
    return [{**message, "tool_calls": calls} if calls else message]


def _plain(content: Any, where: str, drops: bool) -> str:
    """Return blocks of text as one text."""
    if isinstance(content, str):
        return content
    texts = []
    for block in _objects(content, where):
        if block.get("type") == "text" and isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif not drops:
            raise Untranslatable(f"{where}: a block is a text")
    return "\n".join(texts)


def _text(holder: Mapping[str, Any], name: str, at: int) -> str:
    found = holder.get(name)
    if not isinstance(found, str):
        raise Untranslatable(f"messages/{at}: {name} is not a text")
    return found


def _objects(value: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise Untranslatable(f"{where}: not a list of objects")
    return value


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
