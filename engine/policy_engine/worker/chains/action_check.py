"""Checks what a policy returned before Envoy sees it: an invalid header would make Envoy fail the whole request.

Apart from the executor so that the rules (RFC 9110, 5.1 and 5.5; Envoy's header mutation rules) stand in one place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeGuard

from policy_engine.sdk.actions import (
    ChunkMutation,
    ImmediateResponse,
    RequestMutation,
    ResponseMutation,
    TrailerMutation,
)
from policy_engine.sdk.header_rules import CONTROL
from policy_engine.sdk.headers import NO_EDIT, HeaderEdit, encode_value
from policy_engine.sdk.statuses import WITHOUT_CONTENT

MAX_HEADER_CHANGES = 256
MAX_HEADER_BYTES = 64 * 1024
MAX_JSON_VALUES = 4096
MAX_DETAILS = 512
_DEEPEST_JSON = 16
_NAMES = (list, tuple, set, frozenset)
_USUAL_MAPPINGS = (dict, MappingProxyType)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}\Z")
_TARGET = re.compile(r"(/[^\x00-\x20\x7f]*|\*)\Z")
_DETAILS = re.compile(r"[^\x00-\x1f\x7f]*\Z")
_AUTHORITY = re.compile(r"[^\x00-\x20\x7f/?#]{1,512}\Z")
_KEPT_BY_ENGINE = {
    "content-length": "the engine keeps it right when the body changes",
    "transfer-encoding": "message framing belongs to Envoy",
    "host": "set `authority` instead",
}


class InvalidAction(Exception):
    """A policy returned something Envoy could not carry out; the message names the part, never a header's value."""


class WrongKind(InvalidAction):
    """A hook returned what is no action of its phase."""

    def __init__(self, action: Any, accepts: frozenset[type]) -> None:
        allowed = ", ".join(sorted(kind.__name__ for kind in accepts))
        super().__init__(f"the hook returned {type(action).__name__}; it may return {allowed} or None")


def check_action(action: Any) -> HeaderEdit:
    """Return the header part of `action` ready to be applied and sent.

    Raises InvalidAction unless the whole of `action` can be carried out, whatever objects a policy put into it.
    """
    try:
        return _checked(action)
    except InvalidAction:
        raise
    except BaseException as error:  # also its `sys.exit()`, as in a hook
        # An object with methods of its own, which may raise anything; what they say is not ours to show.
        name = type(action).__name__
        raise InvalidAction(f"{name} holds what cannot be read ({type(error).__name__})") from None


def _checked(action: Any) -> HeaderEdit:
    if isinstance(action, RequestMutation):
        changed = _checked_values(action.set_headers, action.append_headers)
        if action.method is not None or action.path is not None or action.authority is not None:
            changed += _request_pseudo_headers(action)
        whole = action.body is None and not action.dynamic_metadata and action.clear_route_cache is False
        # A query is looked at each time: what it becomes depends on the request.
        if action.set_query or action.append_query != () or action.remove_query != ():
            whole = False
            _check_query(action)
        if not whole:
            _check_body(action.body)
            _check_flag("clear_route_cache", action.clear_route_cache)
            _check_metadata(action.dynamic_metadata)
        return HeaderEdit(_checked_names(action.remove_headers), tuple(changed), whole)
    if isinstance(action, ResponseMutation):
        changed = _checked_values(action.set_headers, action.append_headers)
        if action.status is not None:
            _check_status(action.status)
            _check_content(action.status, action.body)
            changed.append((":status", b"%d" % action.status, False))
        whole = action.body is None and not action.dynamic_metadata
        if not whole:
            _check_body(action.body)
            _check_metadata(action.dynamic_metadata)
        return HeaderEdit(_checked_names(action.remove_headers), tuple(changed), whole)
    if isinstance(action, ImmediateResponse):
        _check_status(action.status)
        _check_immediate_body(action.body)
        _check_content(action.status, action.body)
        _check_problem(action.problem, action.body)
        _check_grpc_status(action.grpc_status)
        _check_details(action.details)
        _check_metadata(action.dynamic_metadata)
        return HeaderEdit((), tuple(_checked_values(action.headers, action.append_headers)))
    if isinstance(action, ChunkMutation):
        if action.data is None:
            raise InvalidAction("a chunk's `data` must be bytes, not None; return None to leave the chunk as it is")
        _check_body(action.data)
        _check_flag("end", action.end)
        return NO_EDIT
    if isinstance(action, TrailerMutation):
        changed = _checked_values(action.set_headers, action.append_headers)
        return HeaderEdit(_checked_names(action.remove_headers), tuple(changed))
    raise InvalidAction(f"a hook must return an action or None, not {type(action).__name__}")


def _checked_names(names: object) -> tuple[str, ...]:
    if names == ():
        return ()
    if not _is_list(names):
        raise InvalidAction(f"`remove_headers` must be a list of names, not {type(names).__name__}")
    return tuple([_checked_name(name) for name in names])


def _is_list(many: object) -> TypeGuard[Iterable[Any]]:
    """Return whether it holds one thing after another, and is not one text, or a mapping that would lose its values."""
    if type(many) in (list, tuple):
        return True
    return hasattr(many, "__iter__") and not isinstance(many, str | bytes | Mapping)


def _request_pseudo_headers(action: RequestMutation) -> list[tuple[str, bytes, bool]]:
    found = []
    for field, name, value, rule, expected in (
        ("method", ":method", action.method, _TOKEN, "an HTTP token (RFC 9110, 9.1)"),
        ("path", ":path", action.path, _TARGET, "text that starts with '/' and holds no space or control character"),
        ("authority", ":authority", action.authority, _AUTHORITY, "a host and optional port"),
    ):
        if value is None:
            continue
        if not isinstance(value, str) or not rule.match(value):
            raise InvalidAction(f"`{field}` must be {expected}")
        found.append((name, _encoded(f"`{field}`", value), False))
    return found


def _check_query(action: RequestMutation) -> None:
    if not isinstance(action.set_query, Mapping):
        raise InvalidAction("`set_query` must be a mapping of names to values")
    # They are gone through twice, which a generator does not survive.
    if not isinstance(action.append_query, list | tuple) or not isinstance(action.remove_query, _NAMES):
        raise InvalidAction("`append_query` must be a list of (name, value), `remove_query` a list of names")
    texts = [*action.remove_query, *action.set_query]
    for value in action.set_query.values():
        texts += value if isinstance(value, list | tuple) else [value]
    for pair in action.append_query:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InvalidAction("`append_query` must hold pairs of a name and a value")
        texts += pair
    for text in texts:
        if not isinstance(text, str):
            raise InvalidAction(f"names and values of query parameters must be str, not {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidAction("a query parameter holds a lone surrogate, which is no character") from None
    if len(texts) > MAX_HEADER_CHANGES or sum(map(len, texts)) > MAX_HEADER_BYTES:
        raise InvalidAction(f"more than {MAX_HEADER_CHANGES} query changes, or {MAX_HEADER_BYTES} characters of them")


def _checked_values(replaced: Any, appended: Any) -> list[tuple[str, bytes, bool]]:
    # Asking an abstract class costs as much as all the rest.
    if type(replaced) not in _USUAL_MAPPINGS and not isinstance(replaced, Mapping):
        raise InvalidAction(f"headers to set must be a mapping of names to values, not {type(replaced).__name__}")
    changed = []
    size = 0
    for name, value in replaced.items():
        # Written out here: calls for a name and a value cost as much as looking at them.
        lower = (_GOOD_NAMES.get(name) if type(name) is str else None) or _new_name(name)
        plain = type(value) is str and value.isascii() and value.isprintable()
        raw = value.encode() if plain else _checked_value(name, value)
        size += len(lower) + len(raw)
        changed.append((lower, raw, False))
    if appended != ():
        if not _is_list(appended):
            raise InvalidAction(f"`append_headers` must be a list of (name, value), not {type(appended).__name__}")
        for pair in appended:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InvalidAction("`append_headers` must hold pairs of a name and a value")
            name, value = pair
            lower, raw = _checked_name(name), _checked_value(name, value)
            size += len(lower) + len(raw)
            changed.append((lower, raw, True))
    if len(changed) > MAX_HEADER_CHANGES or size > MAX_HEADER_BYTES:
        raise InvalidAction(
            f"{len(changed)} header changes of {size} bytes; at most {MAX_HEADER_CHANGES} of {MAX_HEADER_BYTES} bytes"
        )
    return changed


def _checked_name(name: object) -> str:
    # The same few names come again and again: looking one up costs 50 ns, checking it 500.
    return (_GOOD_NAMES.get(name) if type(name) is str else None) or _new_name(name)


def _new_name(name: object) -> str:
    if not isinstance(name, str) or not _TOKEN.match(name):
        raise InvalidAction(f"header name {name!r:.80} is not an HTTP token (RFC 9110, 5.1)")
    lower = name.lower()
    reason = _KEPT_BY_ENGINE.get(lower)
    if reason is not None:
        raise InvalidAction(f"header {name!r} cannot be changed: {reason}")
    if len(_GOOD_NAMES) >= _MOST_GOOD_NAMES:
        _GOOD_NAMES.clear()
    _GOOD_NAMES[name] = lower
    return lower


_GOOD_NAMES: dict[str, str] = {}
_MOST_GOOD_NAMES = 1024


def _checked_value(name: str, value: object) -> bytes:
    if type(value) is str and value.isascii() and value.isprintable():
        return value.encode()  # nearly every value, for a quarter of what the pattern costs
    if isinstance(value, str):
        raw = _encoded(f"header {name!r}", value)
    elif isinstance(value, bytes):
        raw = value
    else:
        raise InvalidAction(f"header {name!r}: the value must be str or bytes, not {type(value).__name__}")
    if CONTROL.search(raw):
        raise InvalidAction(
            f"header {name!r}: the value holds a control character such as CR, LF or NUL (RFC 9110, 5.5)"
        )
    return raw


def _encoded(part: str, text: str) -> bytes:
    try:
        return encode_value(text)
    except UnicodeEncodeError:
        raise InvalidAction(f"{part} holds a lone surrogate, which is no character") from None


def _check_body(body: object) -> None:
    if body is not None and not isinstance(body, bytes):
        raise InvalidAction(f"a body must be bytes, not {type(body).__name__}")


def _check_immediate_body(body: object) -> None:
    if body is not None and not isinstance(body, str | bytes):
        raise InvalidAction(f"`body` must be str, bytes or None, not {type(body).__name__}")
    if isinstance(body, str):
        try:
            body.encode()
        except UnicodeEncodeError:
            raise InvalidAction("`body` holds a lone surrogate, which is no character") from None


def _check_content(status: int, body: object) -> None:
    if status in WITHOUT_CONTENT and body:
        raise InvalidAction(f"a response with status {status} has no body (RFC 9110, 6.4.1); the action sets one")


def _check_problem(problem: object, body: object) -> None:
    if type(problem) is MappingProxyType and not problem:
        return
    if not isinstance(problem, Mapping):
        raise InvalidAction(f"`problem` must be a mapping of names to JSON values, not {type(problem).__name__}")
    if problem and body is not None:
        raise InvalidAction("`problem` is for an answer without `body`, whose body the engine writes")
    for name in ("title", "detail"):
        if not isinstance(problem.get(name, ""), str):
            raise InvalidAction(f"`problem` holds a `{name}` that is not text")
    _check_json("problem", problem, 0, MAX_JSON_VALUES)


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidAction(f"`{name}` must be True or False, not {type(value).__name__}")


def _check_status(status: object) -> None:
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise InvalidAction(f"status {status!r:.40} is not a final HTTP status (200 to 599)")


def _check_grpc_status(status: object) -> None:
    if status is not None and (not isinstance(status, int) or isinstance(status, bool) or not 0 <= status <= 16):
        raise InvalidAction(f"`grpc_status` {status!r:.40} is not a gRPC status code (0 to 16)")


def _check_details(details: object) -> None:
    if not isinstance(details, str) or len(details) > MAX_DETAILS or not _DETAILS.match(details):
        raise InvalidAction(f"`details` must be text of at most {MAX_DETAILS} characters without control characters")
    _encoded("`details`", details)
    details.encode()


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, Mapping):
        raise InvalidAction("`dynamic_metadata` must be {namespace: {key: value}}")
    left = MAX_JSON_VALUES
    for namespace, values in metadata.items():
        if not isinstance(namespace, str) or not isinstance(values, Mapping):
            raise InvalidAction("`dynamic_metadata` must be {namespace: {key: value}}")
        namespace.encode()
        left = _check_json("dynamic_metadata", values, 0, left)


def _check_json(field: str, value: object, depth: int, left: int) -> int:
    """Return how many more values `field` may hold: a list that holds itself has no end."""
    if depth > _DEEPEST_JSON:
        raise InvalidAction(f"`{field}` is nested more than {_DEEPEST_JSON} deep")
    if left <= 0:
        raise InvalidAction(f"`{field}` holds more than {MAX_JSON_VALUES} values")
    left -= 1
    if value is None or isinstance(value, bool):
        return left
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, int | float):
        _check_number(field, value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InvalidAction(f"`{field}` keys must be str")
            key.encode()
            left = _check_json(field, inner, depth + 1, left)
    elif isinstance(value, list | tuple):
        for inner in value:
            left = _check_json(field, inner, depth + 1, left)
    else:
        raise InvalidAction(f"`{field}` holds a {type(value).__name__}; only JSON values can be sent")
    return left


def _check_number(field: str, number: float) -> None:
    try:
        finite = math.isfinite(number)
    except OverflowError:
        finite = False
    if not finite:
        raise InvalidAction(f"`{field}` holds a number that JSON cannot write as a double")
