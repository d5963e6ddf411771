"""Hooks that want the same of every request, so that the engine knows their answer before one comes."""

from __future__ import annotations

from typing import Any

from policy_engine.sdk import Policy, RequestMutation, ResponseMutation
from policy_engine.sdk.headers import HeaderEdit
from policy_engine.sdk.hooks import ON_REQUEST_HEADERS, ON_RESPONSE_HEADERS, Hook
from policy_engine.worker.chains.action_check import InvalidAction, check_action
from policy_engine.worker.chains.constant_actions import is_constant


class Constant:
    """A hook that returns the same `action` whatever it is called with; all that asks for is `edit`."""

    __slots__ = ("action", "edit")

    def __init__(self, action: RequestMutation | ResponseMutation, edit: HeaderEdit) -> None:
        self.action = action
        self.edit = edit

    def __call__(self, *arguments: Any) -> RequestMutation | ResponseMutation:
        """Stand for the policy's hook, for whoever wants to see it called."""
        return self.action


def constant_hook(instance: Policy, hook: Hook) -> Constant | None:
    """Return what stands for `hook` of an instance that says what it always wants in that phase, and if that is plain.

    What a request may fail for is left to the policy's own hook: it then fails as any other does. So is an action that
    somebody could still change.
    """
    if hook not in (ON_REQUEST_HEADERS, ON_RESPONSE_HEADERS) or type(instance).blocking:
        return None
    action = instance.constant_actions.get(hook.phase)
    if not isinstance(action, RequestMutation | ResponseMutation) or type(action) not in hook.accepts:
        return None
    try:
        edit = check_action(action)
    except InvalidAction:
        return None
    restates = isinstance(action, ResponseMutation) and action.status is not None
    return Constant(action, edit) if edit.whole and not restates and is_constant(action) else None
