"""Validation of configuration as a library: what engine, control plane, builder and `policy-engine validate` all call.

A separate module because "valid" has to mean the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from policy_engine.documents.diagnostics import Diagnostic, Severity, ordered
from policy_engine.documents.secret_references import SecretSource
from policy_engine.sdk.hooks import REQUEST_PHASES, Phase
from policy_engine.settings.model import ConfigurationSource, Settings
from policy_engine.settings.route_key import positional
from policy_engine.sources.chain_file import load_chain_paths
from policy_engine.sources.chain_reader import ChainReader
from policy_engine.worker.conditions.condition import check_condition
from policy_engine.worker.offload.trial_apart import construct_apart
from policy_engine.worker.policies.loader import load_policy
from policy_engine.worker.policies.registry import MANIFEST_FILE, Registry


def check_chain_condition(text: str, phases: frozenset[Phase]) -> Sequence[object]:
    """Return what is wrong with the condition of a policy that has these phases (R-10)."""
    return check_condition(text, phase_has_response=not phases & REQUEST_PHASES)


def secret_directories(settings: Settings) -> tuple[Path, ...] | None:
    """Return where `${file:…}` may read: None for everywhere, unless chains come from another machine."""
    if not settings.secrets.directories and settings.configuration is ConfigurationSource.FILE:
        return None
    return settings.secrets.directories


def chain_reader(
    registry: Registry, settings: Settings | None = None, secrets: Callable[[], SecretSource] | None = None
) -> ChainReader:
    """Return a reader that checks everything an engine with these settings would check."""
    settings = settings or Settings()
    directories = secret_directories(settings)
    return ChainReader(
        registry,
        check_condition=check_chain_condition,
        secrets=secrets or (lambda: SecretSource(directories=directories)),
        default_timeout=settings.policy_timeout,
        construction_seconds=settings.construction_timeout,
        body_limit=settings.body_limit,
        construct=construct_apart,
        check_key=_check_position,
        strict_keys=settings.route_key.strict,
    )


def _check_position(route_key: str) -> str:
    who = positional(route_key)
    if not who:
        return ""
    return (
        f"this name counts positions ({who}): a rule inserted in front gives it, and with it this chain, to another "
        "route; use a key that stays, such as route_key.source httproute, annotation or istio"
    )


def validate_paths(paths: Iterable[Path], registry: Registry, reader: ChainReader | None = None) -> list[Diagnostic]:
    """Return everything wrong with chain files, directories of them, and policies (`policy.yaml` or its directory).

    Chain files are taken together as one configuration, as an engine would. An empty list means valid.
    """
    chains: list[Path] = []
    diagnostics: list[Diagnostic] = []
    for path in paths:
        if path.name == MANIFEST_FILE:
            diagnostics += load_policy(path.parent)[1]
        elif is_policy(path):
            diagnostics += load_policy(path)[1]
        else:
            chains.append(path)
    if chains:
        diagnostics += load_chain_paths(chains, reader or chain_reader(registry)).diagnostics
        diagnostics += unusable_policies(registry)
    return list(ordered(diagnostics))


def unusable_policies(registry: Registry) -> list[Diagnostic]:
    """Return why policies of the registry cannot be used, as warnings: what names them is refused for itself."""
    return [replace(one, severity=Severity.WARNING) for each in registry.unusable for one in each.diagnostics]


def is_policy(path: Path) -> bool:
    """Return whether `path` is the directory of a policy."""
    try:
        return (path / MANIFEST_FILE).is_file()
    except OSError:  # no permission to look; reading the path will say so
        return False
