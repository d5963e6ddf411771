"""Which actions are kept ready once they were looked at: those that nobody can change any more.

Apart from the executor because it is about Python objects: an action is frozen, what a policy put into it may not be. A
policy that fills one dict anew for each request and returns one action that holds it must not send a client what was
meant for the one before.
"""

from __future__ import annotations

import sys
from types import MappingProxyType
from typing import Any

from policy_engine.sdk.actions import RequestMutation, ResponseMutation

_MAPPINGS = ("set_headers", "dynamic_metadata", "set_query")
_LISTS = ("append_headers", "remove_headers", "append_query", "remove_query")
_PARTS = {
    kind: (
        tuple(name for name in _MAPPINGS if name in kind.__slots__),
        tuple(name for name in _LISTS if name in kind.__slots__),
    )
    for kind in (RequestMutation, ResponseMutation)
}


def is_constant(action: RequestMutation | ResponseMutation) -> bool:
    """Return whether the action will always ask for what it asks for now; from here on its parts cannot be changed.

    Not when somebody else holds a dict or list that is in it. What is in an action of one's own becomes read-only: who
    changes it later gets a TypeError.
    """
    mappings, lists = _PARTS[type(action)]
    if not all(_is_own(getattr(action, name), dict) for name in mappings):
        return False
    if not all(_is_own(getattr(action, name), list) and _is_flat(getattr(action, name)) for name in lists):
        return False
    for name in mappings:
        if type(getattr(action, name)) is dict:
            object.__setattr__(action, name, MappingProxyType(getattr(action, name)))
    for name in lists:
        object.__setattr__(action, name, tuple(getattr(action, name)))
    return True


def _is_own(part: Any, kind: type) -> bool:
    """Tell whether `part` cannot be changed, or is of this kind and nobody's but the action's."""
    if type(part) is kind:
        return sys.getrefcount(part) <= _REFERENCES
    return type(part) in (MappingProxyType, tuple, frozenset)


def _is_flat(many: Any) -> bool:
    return all(type(one) in (str, tuple) for one in many)


def _references_of_own_part() -> int:
    """Return what `_is_own` counts for a part that the action alone holds: calls have references of their own."""
    action = RequestMutation(set_headers={"a": "b"})
    return _counted(action.set_headers, dict)


def _counted(part: Any, kind: type) -> int:
    return sys.getrefcount(part) if type(part) is kind else 0


_REFERENCES = _references_of_own_part()
