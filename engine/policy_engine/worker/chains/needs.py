"""What a chain needs of Envoy: the phases to be sent, how bodies are to come, and how long one answer may take (R-08).

A separate module because there is one rule for it, whether the policies are instances of a compiled chain or
definitions that the control plane reads. Definitions say at least as much as instances, which may leave phases idle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from operator import or_
from typing import Any

from policy_engine.sdk import Policy
from policy_engine.sdk.hooks import REQUEST_PHASES, Phase, all_stream
from policy_engine.worker.conditions.source import ASKED_OF_ENVOY, read_source


class BodyMode(Enum):
    """How much of a body a direction of a chain needs (R-08).

    OBSERVED: only entries in shadow read it, and some of them whole. They must not have it refused, so that it comes as
    far as Envoy's buffer holds. OBSERVED_IN_PIECES: all of them can take it as a stream.
    """

    NONE = "none"
    BUFFERED = "buffered"
    STREAMED = "streamed"
    OBSERVED = "observed"
    OBSERVED_IN_PIECES = "observed in pieces"


@dataclass(frozen=True, slots=True)
class Asked:
    """What Envoy is asked to tell of each request: attributes by name, and namespaces of dynamic metadata."""

    attributes: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()

    def __or__(self, other: Asked) -> Asked:
        if other is self or not (other.attributes or other.namespaces):
            return self
        return Asked(self.attributes | other.attributes, self.namespaces | other.namespaces)


NOTHING_ASKED = Asked()


def asked_by(expressions: Iterable[str]) -> Asked:
    """Return what CEL expressions look up, so that Envoy has to be asked for it."""
    sources = map(read_source, expressions)
    each = (Asked(one.looked_up("request.attributes"), one.looked_up("request.envoy_metadata")) for one in sources)
    return reduce(or_, each, NOTHING_ASKED)


def expressions_in(parameters: Any) -> Iterator[str]:
    """Yield the texts among the parameters of a policy that may be expressions which look up what Envoy tells.

    Only the policy knows which texts are expressions: what is none looks nothing up, or asks for more than is needed.
    """
    if isinstance(parameters, str):
        if any(name in parameters for name in ASKED_OF_ENVOY):
            yield parameters
        return
    if isinstance(parameters, Mapping):
        parameters = parameters.values()
    elif not isinstance(parameters, list | tuple):
        return
    for one in parameters:
        yield from expressions_in(one)


@dataclass(frozen=True, slots=True)
class Part:
    """One policy's part in a chain: the phases it has work in, its timeout in seconds, what it looks up, its mode.

    `asked` holds what the policy declares and what its conditions look up; what is in `shadow` acts on nothing.
    """

    policy_class: type[Policy]
    phases: frozenset[Phase]
    timeout: float
    asked: Asked = NOTHING_ASKED
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Needs:
    """What Envoy has to send; request headers always are. `slowest_answer` is in seconds, see `slowest_answer`."""

    request_body: BodyMode
    request_trailers: bool
    response_headers: bool
    response_body: BodyMode
    response_trailers: bool
    slowest_answer: float
    asked: Asked = NOTHING_ASKED


def needs_of(parts: Sequence[Part]) -> Needs:
    """Return what a chain of these policies needs."""
    phases = frozenset[Phase]().union(*(part.phases for part in parts))
    request_body = _body_mode(parts, Phase.REQUEST_BODY)
    response_body = _body_mode(parts, Phase.RESPONSE_BODY)
    # Trailers also for bodies: a message of headers and trailers has no body message, and what reads bodies must not
    # be passed by with it; full duplex needs trailers besides.
    response_trailers = Phase.RESPONSE_TRAILERS in phases or response_body is not BodyMode.NONE
    return Needs(
        request_body=request_body,
        request_trailers=Phase.REQUEST_TRAILERS in phases or request_body is not BodyMode.NONE,
        response_headers=Phase.RESPONSE_HEADERS in phases or response_trailers,
        response_body=response_body,
        response_trailers=response_trailers,
        slowest_answer=slowest_answer((part.phases, part.timeout) for part in parts),
        asked=reduce(or_, (part.asked for part in parts), NOTHING_ASKED),
    )


def slowest_answer(timeouts: Iterable[tuple[frozenset[Phase], float]]) -> float:
    """Return the seconds that one answer to Envoy may take, given phases and timeout of each policy, in chain order.

    In a phase policies run one after the other. A message without a body is answered after the headers phase and the
    body phase, or when only trailers follow its headers after the body phase and the trailers phase. When a policy
    answers, the response phase of those before it follows at once.
    """
    seconds = dict.fromkeys(Phase, 0.0)
    before_request = before_response = outer = 0.0
    for phases, timeout in timeouts:
        if phases & REQUEST_PHASES:
            before_request = outer
        if phases & _RESPONSE_PHASES:
            before_response = outer
        outer += timeout * len(phases & _SEEING_ANSWERS)
        for phase in phases:
            seconds[phase] += timeout
    return max(
        seconds[one] + seconds[other] + (before_request if one in REQUEST_PHASES else before_response)
        for one, other in _ANSWERED_TOGETHER
    )


_RESPONSE_PHASES = frozenset(Phase) - REQUEST_PHASES
_SEEING_ANSWERS = frozenset({Phase.RESPONSE_HEADERS, Phase.RESPONSE_BODY})
_ANSWERED_TOGETHER = (
    (Phase.REQUEST_HEADERS, Phase.REQUEST_BODY),
    (Phase.REQUEST_BODY, Phase.REQUEST_TRAILERS),
    (Phase.RESPONSE_HEADERS, Phase.RESPONSE_BODY),
    (Phase.RESPONSE_BODY, Phase.RESPONSE_TRAILERS),
)


def _body_mode(parts: Sequence[Part], phase: Phase) -> BodyMode:
    reading = [part for part in parts if phase in part.phases]
    if not reading:
        return BodyMode.NONE
    # How a body comes is for those to say that act on it; entries in shadow take it as it comes.
    acting = [part.policy_class for part in reading if not part.shadow]
    in_pieces = all_stream(acting or [part.policy_class for part in reading], phase)
    if not acting:
        return BodyMode.OBSERVED_IN_PIECES if in_pieces else BodyMode.OBSERVED
    return BodyMode.STREAMED if in_pieces else BodyMode.BUFFERED
