"""What a chain needs Envoy to send, from the policies' definitions (R-08).

A separate module because it is the one thing about chains that Envoy's configuration depends on: with the modes in the
route, Envoy does not ask for phases that nobody needs, and streaming can be switched on at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from policy_engine.documents.quantities import parse_duration
from policy_engine.worker.chains.compiled import BodyMode, body_mode
from policy_engine.worker.policies.registry import Phase, PolicyDefinition, Registry


@dataclass(frozen=True, slots=True)
class ChainModes:
    """Which phases Envoy has to send; request headers always are."""

    request_body: BodyMode
    request_trailers: bool
    response_headers: bool
    response_body: BodyMode
    response_trailers: bool


def enabled(chain: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the entries that run."""
    return [policy for policy in chain if policy.get("enabled", True)]


def chain_modes(chain: Iterable[Mapping[str, Any]], registry: Registry) -> ChainModes | None:
    """Return the modes of `chain`, or None when one of its policies is not in `registry`: then the engine decides."""
    try:
        definitions = [registry.resolve(policy["name"], policy["version"]) for policy in enabled(chain)]
    except LookupError:
        return None
    request_body = _body(definitions, Phase.REQUEST_BODY, "on_request_chunk")
    response_body = _body(definitions, Phase.RESPONSE_BODY, "on_response_chunk")
    return ChainModes(
        request_body=request_body,
        # As the kernel asks for them: trailers may be all that follows the headers of what a body policy must see.
        request_trailers=_any(definitions, Phase.REQUEST_TRAILERS, Phase.REQUEST_BODY),
        response_headers=_any(definitions, Phase.RESPONSE_HEADERS, Phase.RESPONSE_BODY, Phase.RESPONSE_TRAILERS),
        response_body=response_body,
        response_trailers=_any(definitions, Phase.RESPONSE_TRAILERS, Phase.RESPONSE_BODY),
    )


def slowest_phase(chain: Iterable[Mapping[str, Any]], default: float) -> float:
    """Return the seconds that one phase of `chain` may take: every policy up to its timeout, one after the other.

    `default` is the timeout of a policy without one.
    """
    return sum(parse_duration(one["timeout"]) if "timeout" in one else default for one in enabled(chain))


def _any(definitions: Iterable[PolicyDefinition], *phases: Phase) -> bool:
    return any(definition.phases & set(phases) for definition in definitions)


def _body(definitions: Iterable[PolicyDefinition], phase: Phase, chunk_hook: str) -> BodyMode:
    return body_mode([one.policy_class for one in definitions if phase in one.phases], chunk_hook)
