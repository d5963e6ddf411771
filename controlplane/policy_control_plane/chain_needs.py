"""What the chains of a model need of Envoy, from the policies' definitions (R-08).

A separate module because it is the one thing about chains that Envoy's configuration depends on: with the modes in the
route, Envoy does not ask for phases that nobody needs, and streaming can be switched on at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from policy_engine.documents.quantities import parse_duration
from policy_engine.sdk.hooks import Phase
from policy_engine.worker.chains.compiler import asked_of
from policy_engine.worker.chains.needs import (
    NOTHING_ASKED,
    Asked,
    Needs,
    Part,
    asked_by,
    asked_in,
    needs_of,
    slowest_answer,
)
from policy_engine.worker.policies.registry import PolicyDefinition, Registry


def enabled(chain: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the entries that run."""
    return [policy for policy in chain if policy.get("enabled", True)]


def chain_needs(chain: Iterable[Mapping[str, Any]], registry: Registry | None, default_timeout: float) -> Needs | None:
    """Return what `chain` needs, or None when one of its policies is unknown here: then the engine decides.

    A definition may say more than an instance, which can leave phases idle; the engine then switches those off with
    its first answer. `default_timeout` (seconds) is that of a policy without one.
    """
    parts = []
    for entry in enabled(chain):
        definition = _definition(entry, registry)
        if definition is None:
            return None
        timeout, asked = _timeout(entry, default_timeout), _asked(definition, entry)
        parts.append(Part(definition.policy_class, definition.phases, timeout, asked))
    return needs_of(parts)


def asked_for(chain: Iterable[Mapping[str, Any]], registry: Registry | None) -> Asked:
    """Return what Envoy has to tell for `chain`; of unknown policies only what their expressions look up."""
    asked = NOTHING_ASKED
    for entry in enabled(chain):
        asked |= _asked(_definition(entry, registry), entry)
    return asked


def _asked(definition: PolicyDefinition | None, entry: Mapping[str, Any]) -> Asked:
    condition, parameters = entry.get("condition"), entry.get("parameters", {})
    if definition is None:
        return asked_by(condition) | asked_in(parameters)
    return asked_of(definition, condition, parameters)


def longest_answer(chain: Iterable[Mapping[str, Any]], registry: Registry | None, default_timeout: float) -> float:
    """Return the seconds that one answer for `chain` may take; unknown policies count as part of every phase."""
    return slowest_answer(
        (
            frozenset(Phase) if (definition := _definition(entry, registry)) is None else definition.phases,
            _timeout(entry, default_timeout),
        )
        for entry in enabled(chain)
    )


def _definition(entry: Mapping[str, Any], registry: Registry | None) -> PolicyDefinition | None:
    if registry is None:
        return None
    try:
        return registry.resolve(entry["name"], entry["version"])
    except LookupError:
        return None


def _timeout(entry: Mapping[str, Any], default: float) -> float:
    return parse_duration(entry["timeout"]) if "timeout" in entry else default
