"""Who may call which tools of an MCP server: calls are refused, and lists of tools have only those that are allowed."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policy_body import BodyBuffer, EventBuffer, event_of, events_of, is_compressed, is_denial, media_type_of, problem
from policy_engine.sdk import (
    Chunk,
    ChunkMutation,
    Expression,
    ExpressionFailed,
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestMutation,
    Response,
)
from policy_expressions import Budget

from .messages import CALL, Asked, asked, filtered, refusal
from .rules import Decision, Verdict, decide, names_pattern

_METHODS = (
    *("initialize", "ping", "notifications/*", "server/discover", "subscriptions/listen"),
    *("tools/list", "tools/call", "prompts/list", "prompts/get"),
    *("resources/list", "resources/templates/list", "resources/read", "resources/subscribe", "resources/unsubscribe"),
    *("completion/complete", "logging/setLevel", "tasks/get", "tasks/list", "tasks/result", "tasks/cancel"),
)
_WITHOUT_BODY = frozenset({"GET", "DELETE", "HEAD", "OPTIONS"})
_EVENTS = "text/event-stream"
_IDENTITY = RequestMutation(set_headers={"accept-encoding": "identity"})
_BASE64 = re.compile(r"=\?base64\?([A-Za-z0-9+/]*={0,2})\?=")
_NO_TOOLS = "The body is to be a message of JSON-RPC 2.0."

_NOBODY = (Decision("too expensive", allows=False, tools=None, failed=True),)
"""What holds where it takes too long to find out."""

_ForRequest = ImmediateResponse | None
_ForChunk = ChunkMutation | None


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    allows: bool
    tools: re.Pattern[str] | None
    when: Expression[bool] | None


@dataclass(slots=True)
class _Kept:
    """What is kept for a request: the rules that hold for it, and what is not whole of its answer yet."""

    rules: Sequence[Decision] | None = None
    buffer: EventBuffer | BodyBuffer | None = None
    begun: bool = False
    is_events: bool = False


class McpAuthorize(Policy):
    """Refuses calls that no rule allows (403) and what is no JSON-RPC (400); takes such tools out of lists.

    A rule that cannot be evaluated is decided on the safe side: one that denies holds, one that allows does not.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._rules = [self._rule(index, rule) for index, rule in enumerate(parameters["rules"])]
        names = [rule.name for rule in self._rules]
        for index, name in enumerate(names):
            if name in names[:index]:
                reason = f"there is another rule {name}; the name has to say which one decided"
                raise ParameterError(reason, f"/rules/{index}/name")
        self._allows_by_default = parameters.get("default", "deny") == "allow"
        self._methods = names_pattern(parameters.get("methods", _METHODS))
        self._largest = parameters.get("max_message_bytes", 4 << 20)

    def on_request_headers(self, request: Request) -> RequestMutation:
        """Ask for an answer that can be read as it passes."""
        return _IDENTITY

    def on_request_body(self, request: Request) -> _ForRequest | Awaitable[_ForRequest]:
        """Decide about the calls in it, and which rules hold for the lists in the answer."""
        rules = self._holding(request)
        if rules is None:
            return ImmediateResponse(403, details="mcp_authorize_too_expensive")
        self.state(request, _Kept).rules = rules
        if not request.body:
            return None if request.method in _WITHOUT_BODY else self._malformed(_NO_TOOLS)
        return self.offload_large(asked, request.body, then=lambda found: self._judged(request, rules, found))

    def on_response_headers(self, request: Request, response: Response) -> ImmediateResponse | None:
        """Refuse an answer that cannot be read."""
        if is_denial(response) or not is_compressed(response.headers):
            return None
        return ImmediateResponse(502, details="mcp_authorize_answer_compressed")

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> _ForChunk | Awaitable[_ForChunk]:
        """Pass on whole messages, without the tools that may not be called."""
        if is_denial(response):
            return None
        kept = self.state(request, _Kept)
        if kept.rules is None:  # the answer of a policy that did not wait for the body
            rules = self._holding(request)
            kept.rules = _NOBODY if rules is None else rules
        if kept.buffer is None:
            kept.is_events = media_type_of(response.headers) == _EVENTS
            kept.buffer = EventBuffer(self._largest) if kept.is_events else BodyBuffer(self._largest)
        whole = kept.buffer.feed(chunk.data)
        if kept.buffer.too_large:
            kept.buffer.finish()
            data = refusal()
            return ChunkMutation(event_of(data) if kept.is_events else data, end=True)
        data = whole + (kept.buffer.finish() if chunk.end else b"")
        if not data:
            return None if not chunk.data else ChunkMutation(b"")
        first, kept.begun = not kept.begun, True
        function = _filtered_events if kept.is_events else _filtered_body
        is_json = media_type_of(response.headers).endswith("json")
        return self.offload_large(
            function,
            kept.rules,
            self._allows_by_default,
            data,
            first if kept.is_events else is_json,
            size=len(data) * (1 + len(kept.rules) // 10),
            then=lambda new: None if new == chunk.data else ChunkMutation(new),
        )

    def _judged(self, request: Request, rules: Sequence[Decision], found: Asked) -> _ForRequest:
        if found.fault:
            return self._malformed(found.fault)
        if not _headers_agree(request, found):
            return self._malformed("The headers name another method or tool than the body.")
        for method in found.methods:
            if not self._methods.match(method):
                return self._refused("This method may not be called.", "mcp_authorize_method")
        for tool in found.tools:
            verdict = decide(rules, tool, self._allows_by_default)
            if not verdict.allows:
                return self._refused("This tool may not be called.", verdict.reason)
        request.metadata["mcp"] = _described(rules, found, self._allows_by_default)
        return None

    def _holding(self, request: Request) -> Sequence[Decision] | None:
        """Return the rules that hold for this request, in their order; None when that takes too long."""
        budget = Budget()
        found = []
        for rule in self._rules:
            holds, failed = True, False
            if rule.when is not None:
                try:
                    holds = rule.when.evaluate(request)
                except ExpressionFailed:
                    holds, failed = not rule.allows, True
                if budget.spent():
                    return None
            if holds:
                found.append(Decision(rule.name, rule.allows, rule.tools, failed))
        return found

    def _rule(self, index: int, rule: Mapping[str, Any]) -> _Rule:
        name, text = rule["name"], rule.get("when")
        try:
            when = None if text is None else self.condition(text, f"/rules/{index}/when")
        except ParameterError as error:
            raise ParameterError(f"rule {name}: {error.message}", error.path) from None
        tools = names_pattern(rule["tools"]) if "tools" in rule else None
        return _Rule(name, rule["action"] == "allow", tools, when)

    @staticmethod
    def _malformed(detail: str) -> ImmediateResponse:
        return problem(400, "Bad Request", detail, reason="mcp_authorize_no_json_rpc")

    @staticmethod
    def _refused(detail: str, reason: str) -> ImmediateResponse:
        return problem(403, "Forbidden", detail, reason=reason)


def _described(rules: Sequence[Decision], found: Asked, allows_by_default: bool) -> dict[str, Any]:
    """Return what later policies and conditions are told: of one message its method and tool, of all of them lists."""
    verdicts: list[Verdict] = [decide(rules, tool, allows_by_default) for tool in found.tools]
    told: dict[str, Any] = {"methods": list(found.methods), "tools": list(found.tools)}
    told["rules"] = [verdict.reason for verdict in verdicts]
    if len(found.methods) == 1:
        told["method"] = found.methods[0]
    if len(found.tools) == 1:
        told["tool"] = found.tools[0]
    return told


def _headers_agree(request: Request, found: Asked) -> bool:
    """Tell whether `mcp-method` and `mcp-name`, which a server may go by, are those of the one message in the body."""
    methods, names = request.headers.get_all("mcp-method"), request.headers.get_all("mcp-name")
    if methods and list(methods) != list(found.methods):
        return False
    if not names or CALL not in found.methods:
        return True
    return len(names) == 1 and [_decoded(names[0])] == list(found.tools)


def _decoded(name: str) -> str | None:
    """Return a name as the header has it: plain, or `=?base64?…?=` where it has other than plain characters."""
    packed = _BASE64.fullmatch(name)
    if packed is None:
        return name
    try:
        return base64.b64decode(packed[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _filtered_body(rules: Sequence[Decision], allows_by_default: bool, data: bytes, is_json: bool) -> bytes:
    """Return a whole answer; one that says to be JSON and is none is not passed on."""
    new = filtered(rules, allows_by_default, data)
    if new is not None:
        return new
    return refusal() if is_json else data


def _filtered_events(rules: Sequence[Decision], allows_by_default: bool, data: bytes, first: bool) -> bytes:
    """Return events; what is no JSON in them, such as the address of an endpoint, passes."""
    out = []
    for event in events_of(data, first=first):
        new = None if event.data is None else filtered(rules, allows_by_default, event.data)
        out.append(event.raw if new is None or new == event.data else event.with_data(new))
    return b"".join(out)
