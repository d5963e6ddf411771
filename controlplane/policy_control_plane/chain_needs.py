"""What the chains of a model need of Envoy, from the policies' definitions (R-08).

A separate module because it is the one thing about chains that Envoy's configuration depends on: with the modes in the
route, Envoy does not ask for phases that nobody needs, and streaming can be switched on at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from policy_engine.documents.quantities import parse_duration
from policy_engine.sdk.hooks import Phase
from policy_engine.sources.written_entries import WrittenPolicy, running
from policy_engine.worker.chains.compiler import asked_of
from policy_engine.worker.chains.needs import NOTHING_ASKED, Asked, Needs, Part, asked_by, needs_of, slowest_answer
from policy_engine.worker.policies.registry import PolicyDefinition, Registry


def chain_needs(chain: Iterable[Mapping[str, Any]], registry: Registry | None, default_timeout: float) -> Needs | None:
    """Return what `chain` needs, or None when one of its policies is unknown here: then the engine decides.

    A definition may say more than an instance, which can leave phases idle; the engine then switches those off with
    its first answer. `default_timeout` (seconds) is that of a policy without one.
    """
    parts = []
    for policy in running(chain):
        definition = _definition(policy, registry)
        if definition is None:
            return None
        timeout, asked = _timeout(policy, default_timeout), asked_of(definition, policy.expressions)
        parts.append(Part(definition.policy_class, definition.phases, timeout, asked, policy.shadow))
    return needs_of(parts)


def asked_for(chain: Iterable[Mapping[str, Any]], registry: Registry | None) -> Asked:
    """Return what Envoy has to tell for `chain`; of unknown policies only what their conditions look up."""
    asked = NOTHING_ASKED
    for policy in running(chain):
        definition = _definition(policy, registry)
        asked |= asked_by(policy.expressions) if definition is None else asked_of(definition, policy.expressions)
    return asked


def longest_answer(chain: Iterable[Mapping[str, Any]], registry: Registry | None, default_timeout: float) -> float:
    """Return the seconds that one answer for `chain` may take; unknown policies count as part of every phase."""
    return slowest_answer(
        (
            frozenset(Phase) if (definition := _definition(policy, registry)) is None else definition.phases,
            _timeout(policy, default_timeout),
        )
        for policy in running(chain)
    )


def _definition(policy: WrittenPolicy, registry: Registry | None) -> PolicyDefinition | None:
    if registry is None:
        return None
    try:
        return registry.resolve(policy.name, policy.version)
    except LookupError:
        return None


def _timeout(policy: WrittenPolicy, default: float) -> float:
    return default if policy.timeout is None else parse_duration(policy.timeout)
