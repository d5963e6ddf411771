"""A group of alternatives of which one has to let a request in: each is asked in turn until one does.

A separate module because the executor knows steps alone: an alternative is a step whose condition holds only while
those before it have refused, and the last step of the group answers when all have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from policy_engine.sdk import ImmediateResponse, Policy, Request, Response
from policy_engine.sdk.headers import HeaderValue, decode_value
from policy_engine.worker.chains.compiled import Condition, Narrowed

NAME = "any_of"
"""How the group as a whole is called in metrics and logs."""

_UNAUTHORIZED = 401
_ABOUT_CREDENTIALS = (_UNAUTHORIZED, 403)
_CHALLENGE = "www-authenticate"


@dataclass(slots=True, eq=False)
class _Asked:
    """How far a group has come with a request: whether it runs, whether the alternative that was asked last has not
    refused, and what those before it said."""

    runs: bool | None = None
    let_in: bool = False
    refusals: list[ImmediateResponse] = field(default_factory=list)


class Group:
    """One group of a chain; `condition` is that of the group, decided once for a request."""

    __slots__ = ("_condition", "text")

    uses_response = False

    def __init__(self, condition: Condition | None) -> None:
        self.text = "" if condition is None else condition.text
        self._condition = condition

    def asked(self, request: Request) -> _Asked:
        """Return how far the group has come with this request."""
        return request.state_of(self, _Asked)

    def evaluate(self, request: Request, response: Response | None) -> bool:
        """See `Condition`: return whether the group runs for this request."""
        asked = self.asked(request)
        if asked.runs is None:
            asked.runs = self._condition is None or self._condition.evaluate(request, response)
        return asked.runs

    def why_not(self, request: Request, response: Response | None) -> str:
        """See `Narrowed`."""
        return _why_not(self._condition, request, response)


class Alternative:
    """One of the ways of a group: at once the condition of its step, and where the step's refusal goes."""

    __slots__ = ("_condition", "_group", "text")

    uses_response = False

    def __init__(self, group: Group, condition: Condition | None) -> None:
        self.text = "" if condition is None else condition.text
        self._group = group
        self._condition = condition

    def evaluate(self, request: Request, response: Response | None) -> bool:
        """See `Condition`: none before it has let the request in, and its own condition holds."""
        if not self._group.evaluate(request, response):
            return False
        asked = self._group.asked(request)
        if asked.let_in or (self._condition is not None and not self._condition.evaluate(request, response)):
            return False
        asked.let_in = True
        return True

    def why_not(self, request: Request, response: Response | None) -> str:
        """See `Narrowed`."""
        asked = self._group.asked(request)
        if not asked.runs:
            return "its group does not run for this request"
        if asked.let_in:
            return "an alternative before it let the request in"
        return _why_not(self._condition, request, response)

    def refuse(self, request: Request, answer: ImmediateResponse) -> None:
        """See `Way`."""
        asked = self._group.asked(request)
        asked.let_in = False
        asked.refusals.append(answer)


class Verdict(Policy):
    """The last step of a group: answers for all alternatives when none has let the request in."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def on_request_headers(self, request: Request) -> ImmediateResponse | None:
        """Return the one denial, or None when an alternative let the request in."""
        asked = self._group.asked(request)
        return None if asked.let_in else one_denial(asked.refusals)


def one_denial(refusals: Sequence[ImmediateResponse]) -> ImmediateResponse:
    """Return what stands for all refusals.

    Whoever refuses with anything but 401 knows the caller, or could not look: the first such refusal counts. Otherwise
    nobody was recognised, and the answer is 401. Either names every way in, with all challenges in their order (RFC
    9110, 11.6.1), unless it is not about credentials at all.
    """
    if not refusals:
        return ImmediateResponse(_UNAUTHORIZED, details=f"{NAME}:no_alternative")
    told = next((one for one in refusals if one.status != _UNAUTHORIZED), refusals[0])
    if told.status not in _ABOUT_CREDENTIALS:
        return told
    challenges = dict.fromkeys(challenge for one in refusals for challenge in _challenges(one))
    details = f"{NAME}:{'+'.join(one.details or 'refused' for one in refusals)}"[:_LONGEST_DETAILS]
    return replace(
        told,
        headers={name: value for name, value in told.headers.items() if name.lower() != _CHALLENGE},
        append_headers=[
            *((name, value) for name, value in told.append_headers if name.lower() != _CHALLENGE),
            *((_CHALLENGE, challenge) for challenge in challenges),
        ],
        details=details,
    )


_LONGEST_DETAILS = 512


def _why_not(condition: Condition | None, request: Request, response: Response | None) -> str:
    return condition.why_not(request, response) if isinstance(condition, Narrowed) else ""


def _challenges(refusal: ImmediateResponse) -> list[str]:
    pairs = [*refusal.headers.items(), *refusal.append_headers]
    return [_text(value) for name, value in pairs if name.lower() == _CHALLENGE]


def _text(value: HeaderValue) -> str:
    return decode_value(value) if isinstance(value, bytes) else value
