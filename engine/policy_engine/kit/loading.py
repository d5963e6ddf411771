"""Policies loaded as the engine loads them: manifest, import, interface, schema and defaults."""

from __future__ import annotations

from functools import lru_cache
from os import PathLike
from pathlib import Path
from weakref import finalize

from policy_engine.sdk import Parameters, Policy
from policy_engine.worker.policies import loader
from policy_engine.worker.policies.loader import PoliciesUnusable
from policy_engine.worker.policies.parameters import ParametersInvalid
from policy_engine.worker.policies.registry import PolicyDefinition

_DEFINITIONS: dict[type[Policy], PolicyDefinition] = {}
_PARAMETERS: dict[int, Parameters] = {}
"""By identity of the policy: one of an author need not be hashable."""


def load_policy(where: str | PathLike[str], parameters: Parameters | None = None) -> Policy:
    """Create the policy that lives in directory `where`, or beside file `where`: `load_policy(__file__, {...})`.

    The parameters are held against the schema in `policy.yaml`, and its defaults are filled in. Raises
    ParametersInvalid with every violation, PoliciesUnusable (both are ValueErrors) when `policy.yaml` or the class is
    wrong, and whatever the constructor raises.
    """
    definition = _definition(where)
    checked = definition.parameters.check(dict(parameters or {}))
    if checked.violations:
        raise ParametersInvalid(str(definition), checked.violations)
    policy = definition.policy_class(checked.parameters)
    _PARAMETERS[id(policy)] = checked.parameters
    finalize(policy, _PARAMETERS.pop, id(policy))
    return policy


def policy_class(where: str | PathLike[str]) -> type[Policy]:
    """Return the class that `policy.yaml` names, without creating it; see `load_policy` for `where` and errors.

    Each directory is a package of its own, so two versions of one policy can be in one process.
    """
    return _definition(where).policy_class


def definition_of(policy_class: type[Policy]) -> PolicyDefinition | None:
    """Return what `policy.yaml` says of a class that was loaded here, None for one that was not."""
    return _DEFINITIONS.get(policy_class)


def parameters_of(policy: Policy) -> Parameters:
    """Return the parameters of a policy that was created here; none for another one."""
    return _PARAMETERS.get(id(policy), {})


def _definition(where: str | PathLike[str]) -> PolicyDefinition:
    path = Path(where).absolute()
    return _loaded(path if path.is_dir() else path.parent)


@lru_cache(maxsize=256)
def _loaded(directory: Path) -> PolicyDefinition:
    definition, diagnostics = loader.load_policy(directory, digest="")
    if definition is None:
        raise PoliciesUnusable(tuple(diagnostics))
    _DEFINITIONS[definition.policy_class] = definition
    return definition
