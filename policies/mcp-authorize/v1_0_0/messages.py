"""JSON-RPC 2.0 as MCP clients send it, read strictly, and lists of tools as servers send them, read leniently.

Apart from the policy because both are pure functions of bytes, so that a helper process can do them.
Specification: https://www.jsonrpc.org/specification and https://modelcontextprotocol.io/specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from policy_body import NotJson, parse, read_leniently, write_leniently

from .rules import Decision, decide

CALL = "tools/call"
_LONGEST_NAME = 1024
_MOST_MESSAGES = 1000  # of a batch
_PLAIN_ID = str | int | float | None
_REFUSED = {"code": -32603, "message": "The answer of the server cannot be read."}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a body asks for: the methods in it, the tools that are called; or what is wrong with it."""

    fault: str = ""
    methods: Sequence[str] = ()
    tools: Sequence[str] = ()


def asked(body: bytes) -> Asked:
    """Read a message, or a batch of them."""
    try:
        document = parse(body)
    except NotJson as error:
        return Asked(f"The body is not valid JSON: {error}.")
    messages = document if isinstance(document, list) else [document]
    if not messages or len(messages) > _MOST_MESSAGES:
        return Asked(f"A batch has 1 to {_MOST_MESSAGES} messages.")
    methods: list[str] = []
    tools: list[str] = []
    for message in messages:
        fault = _fault(message)
        if fault:
            return Asked(f"The body is no JSON-RPC 2.0: {fault}.")
        method = message.get("method")
        if method is not None:
            methods.append(method)
        if method == CALL:
            tools.append(message["params"]["name"])
    return Asked(methods=methods, tools=tools)


def _fault(message: Any) -> str:
    """Return what is wrong with a request, a notification or a response; nothing when it is one of them."""
    if not isinstance(message, dict):
        return "a message is an object"
    if message.get("jsonrpc") != "2.0":
        return 'jsonrpc is not "2.0"'
    if isinstance(message.get("id"), bool) or not isinstance(message.get("id"), _PLAIN_ID):
        return "an id is a text or a number"
    answers = "result" in message or "error" in message
    if answers:
        return "a message has a method or a result, not both" if "method" in message else ""
    if not isinstance(message.get("method"), str):
        return "a method is a text"
    params = message.get("params")
    if "params" in message and not isinstance(params, dict | list):
        return "params are an object or a list"
    if message["method"] == CALL and _name(params) is None:
        return f"a call has the name of a tool, of {_LONGEST_NAME} characters at most"
    return ""


def filtered(rules: Sequence[Decision], allows_by_default: bool, data: bytes) -> bytes | None:
    """Return a document of a server without the tools that are not allowed; None when it is no JSON.

    Bytes that are changed nowhere come back as they are, unless two parsers could read two things in them.
    """
    try:
        found = read_leniently(data)
    except NotJson:
        return None
    changed = not found.exact
    for message in found.value if isinstance(found.value, list) else [found.value]:
        result = message.get("result") if isinstance(message, dict) else None
        tools = result.get("tools") if isinstance(result, dict) else None
        if not isinstance(result, dict) or tools is None:
            continue
        known = tools if isinstance(tools, list) else []
        kept = [one for one in known if _is_allowed(rules, allows_by_default, one)]
        if kept != tools:
            result["tools"] = kept
            changed = True
    return write_leniently(found.value) if changed else data


def refusal() -> bytes:
    """Return the message that stands for an answer that cannot be read."""
    return write_leniently({"jsonrpc": "2.0", "id": None, "error": _REFUSED})


def _is_allowed(rules: Sequence[Decision], allows_by_default: bool, tool: Any) -> bool:
    name = _name(tool)
    return name is not None and decide(rules, name, allows_by_default).allows


def _name(holder: Any) -> str | None:
    """Return the name of a tool in `holder`, None when there is none that could be one."""
    name = holder.get("name") if isinstance(holder, dict) else None
    return name if isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME else None
