"""Chains read from plain data: the one place that decides what a chain means, whatever source it came from.

Chain files and xDS resources are both brought into the shape of a chain file first, so that no check is written twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, TypeVar

from policy_engine.documents.diagnostics import (
    Diagnostic,
    Findings,
    Rule,
    Severity,
    TooManyFindings,
    has_errors,
    ordered,
)
from policy_engine.documents.fields import Fields
from policy_engine.documents.json_types import type_in_words
from policy_engine.documents.secret_references import Resolution, SecretSource, resolve_secrets
from policy_engine.documents.yaml_document import Document
from policy_engine.limits import CONSTRUCTION_SECONDS, LONGEST_POLICY_TIMEOUT, POLICY_TIMEOUT
from policy_engine.sdk.hooks import Phase
from policy_engine.sdk.json_pointer import Path, find, path_within
from policy_engine.sources.error_answers import read_errors
from policy_engine.worker.chains.error_answers import ErrorAnswers
from policy_engine.worker.chains.spec import ChainsSpec, FailureMode, PolicySpec, RouteSpec
from policy_engine.worker.conditions.failing import unguarded
from policy_engine.worker.policies.registry import (
    PolicyDefinition,
    Registry,
    UnknownPolicy,
    UnknownVersion,
    UnusablePolicy,
)
from policy_engine.worker.policies.trial import Refusal, Trial, construct_on_trial
from policy_engine.worker.policies.violations import Violation

KeyCheck = Callable[[str], str]
"""Returns what is wrong with a route key that names a route only for now, empty when nothing is."""

Construct = Callable[[Sequence[Trial], float], list[Refusal | None]]
"""Constructs policies on trial, each within so many seconds, and returns why they are refused."""

ConditionCheck = Callable[[str, frozenset[Phase]], Sequence[object]]
"""Returns what is wrong with a condition of a policy with these phases; each problem's `str` is shown."""

FILE_KEYS = ("version", "errors", "routes")
ROUTE_KEYS = ("route_key", "errors", "policies")
POLICY_KEYS = ("name", "version", "enabled", "condition", "failure_mode", "timeout", "parameters")

MAX_ROUTES = 100_000
MAX_POLICIES = 200
MAX_ROUTE_KEY = 1024
MAX_CONDITION = 16 << 10

_VERSION_FORMS = "v1.0.0 (exact) or v1 (newest of that major version)"
_REMEMBERED = 20_000

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class LoadedChains:
    """What was read: `chains` is None when one of the `diagnostics` is an error.

    `secret_files` are the files that references in parameters name, found or not, each with a digest of what was read.
    """

    chains: ChainsSpec | None
    diagnostics: tuple[Diagnostic, ...]
    secret_files: Mapping[FilePath, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class _Load:
    """What one load gathers before it can be judged as a whole."""

    secrets: SecretSource
    diagnostics: Findings = field(default_factory=Findings)
    routes: list[RouteSpec] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    pending: list[_Pending] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Pending:
    """A policy whose parameters satisfy the schema and that is still to be constructed on trial."""

    trial: Trial
    digest: bytes
    document: Document
    path: Path
    resolution: Resolution


class ChainReader:
    """Reads chains against one registry; keep it, because it remembers what it has already found good.

    `check_condition` None leaves conditions unchecked, and `check_key` None route keys, which are errors when it is
    `strict_keys` and warnings where policies fail closed. `secrets` says where secrets may come from (R-24),
    `default_timeout` and `construction_seconds` (that a policy's constructor may take) are in seconds. `construct` is
    how policies are tried out: here, or in a process apart.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        check_condition: ConditionCheck | None = None,
        secrets: Callable[[], SecretSource] = SecretSource,
        default_timeout: float = POLICY_TIMEOUT,
        construction_seconds: float = CONSTRUCTION_SECONDS,
        check_key: KeyCheck | None = None,
        strict_keys: bool = False,
        construct: Construct = construct_on_trial,
    ) -> None:
        self.registry = registry
        self._check_condition = check_condition
        self._secrets = secrets
        self._default_timeout = default_timeout
        self._construction_seconds = construction_seconds
        self._check_key = check_key
        self._strict_keys = strict_keys
        self._try = construct
        self._constructed: dict[bytes, None] = {}
        self._conditions: dict[tuple[str, frozenset[Phase]], tuple[str, ...]] = {}

    def read_documents(self, documents: Iterable[Document], earlier: Iterable[Diagnostic] = ()) -> LoadedChains:
        """Read chain files as one configuration; `earlier` are findings that reading the files already made."""
        load = _Load(self._secrets(), Findings(earlier))
        with suppress(TooManyFindings):
            for document in documents:
                self._file(document, load)
            self._construct(load)
        return self._finish(load)

    def read_route(self, name: str, route: Any) -> LoadedChains:
        """Read one route (`route_key`, `policies`) that did not come from a file; `name` stands for it in findings."""
        load = _Load(self._secrets())
        with suppress(TooManyFindings):
            self._route(Document(name, route), (), load)
            self._construct(load)
        return self._finish(load)

    @staticmethod
    def _finish(load: _Load) -> LoadedChains:
        diagnostics = ordered(load.diagnostics)
        chains = None if has_errors(diagnostics) else ChainsSpec(tuple(load.routes))
        return LoadedChains(chains, diagnostics, load.secrets.files)

    def _file(self, document: Document, load: _Load) -> None:
        fields = Fields(document, (), FILE_KEYS, load.diagnostics, "a chain file")
        if not isinstance(document.value, dict):
            return
        fields.choice("version", ("v1",))
        errors = read_errors(document, ("errors",), load.diagnostics) if "errors" in fields else None
        for index, _ in enumerate(fields.items("routes", most=MAX_ROUTES)):
            self._route(document, ("routes", index), load, errors)

    def _route(self, document: Document, path: Path, load: _Load, general: ErrorAnswers | None = None) -> None:
        fields = Fields(document, path, ROUTE_KEYS, load.diagnostics, "a route")
        if not isinstance(find(document.value, path), dict):
            return
        key = fields.text("route_key", required=True, longest=MAX_ROUTE_KEY)
        if key is not None:
            self._note_route_key(key, document, path, fields, load)
        policies = [
            self._policy(document, (*path, "policies", index), load)
            for index, _ in enumerate(fields.items("policies", most=MAX_POLICIES))
        ]
        errors = general
        if "errors" in fields:
            errors = read_errors(document, (*path, "errors"), load.diagnostics).over(general)
        if key is not None:
            route = RouteSpec(key, tuple(one for one in policies if one is not None), errors)
            load.diagnostics.extend(self._position(route, document, (*path, "route_key")))
            load.routes.append(route)

    def _position(self, route: RouteSpec, document: Document, path: Path) -> Iterator[Diagnostic]:
        """Yield a finding for a key that counts positions."""
        problem = self._check_key(route.route_key) if self._check_key is not None else ""
        guards = any(one.enabled and one.failure_mode is FailureMode.CLOSED for one in route.policies)
        if problem and (self._strict_keys or guards):
            severity = Severity.ERROR if self._strict_keys else Severity.WARNING
            yield document.diagnostic(path, problem, rule=Rule.POSITIONAL_KEY, severity=severity)

    def _note_route_key(self, key: str, document: Document, path: Path, fields: Fields, load: _Load) -> None:
        place = document.locate((*path, "route_key"))
        here = f"{document.file}:{place.line}" if place else document.file
        if key not in load.places:
            load.places[key] = here
            return
        reason = f"the route key {key!r} is already used in {load.places[key]}; a route has one chain"
        fields.error(("route_key",), reason, rule=Rule.DUPLICATE_ROUTE)

    def _policy(self, document: Document, path: Path, load: _Load) -> PolicySpec | None:
        fields = Fields(document, path, POLICY_KEYS, load.diagnostics, "a policy")
        if not isinstance(find(document.value, path), dict):
            return None
        definition = self._definition(fields)
        condition = fields.text("condition", longest=MAX_CONDITION)
        if condition is not None:
            phases = definition.phases if definition is not None else frozenset()
            for problem in self._condition_problems(condition, phases):
                fields.error(("condition",), problem, rule=Rule.CONDITION)
        enabled = fields.boolean("enabled", default=True)
        mode = fields.choice("failure_mode", tuple(FailureMode), default=FailureMode.CLOSED)
        if definition is not None and definition.authenticates and condition is not None and mode == FailureMode.OPEN:
            load.diagnostics.extend(_openings(document, path, definition, condition))
        timeout = fields.duration("timeout", default=self._default_timeout, longest=LONGEST_POLICY_TIMEOUT)
        parameters = fields.raw("parameters") if "parameters" in fields else {}
        if not isinstance(parameters, dict):
            reason = f"must be an object, not {type_in_words(parameters)} (write {{}} for none)"
            fields.error(("parameters",), reason, rule=Rule.WRONG_TYPE)
            return None
        checked = self._parameters(definition, parameters, document, (*path, "parameters"), load)
        if definition is None or checked is None:
            return None
        resolved, secrets = checked
        return PolicySpec(
            name=definition.name,
            version=str(definition.version),
            enabled=enabled,
            condition=condition,
            failure_mode=FailureMode(mode or FailureMode.CLOSED),
            timeout=timeout,
            parameters=resolved,
            secrets=secrets,
            requested_version=str(fields.raw("version")),
        )

    def _definition(self, fields: Fields) -> PolicyDefinition | None:
        name = fields.text("name", required=True)
        version = fields.raw("version")
        if isinstance(version, int | float) and not isinstance(version, bool):
            fields.error(("version",), "is a number", value=version, rule=Rule.WRONG_TYPE, allowed=_VERSION_FORMS)
            version = None
        else:
            version = fields.text("version", required=True)
        if name is None:
            return None
        try:
            return self.registry.resolve(name, version or "v0")
        except UnknownPolicy as error:
            meant = f"; did you mean {error.nearest!r}?" if error.nearest else ""
            available = ", ".join(error.available) or "none, this engine was built without policies"
            reason = f"there is no policy {name!r} in this engine{meant}"
            fields.error(("name",), reason, rule=Rule.UNKNOWN_POLICY, allowed=available)
        except UnusablePolicy as error:
            fields.error(("name",), str(error), rule=Rule.UNKNOWN_POLICY)
        except UnknownVersion as unknown:
            if version is not None:
                available = ", ".join(str(one) for one in unknown.available)
                reason = f"policy {name!r} is not in this engine in this version"
                fields.error(("version",), reason, value=version, rule=Rule.UNKNOWN_VERSION, allowed=available)
        return None

    def _condition_problems(self, text: str, phases: frozenset[Phase]) -> tuple[str, ...]:
        if self._check_condition is None:
            return ()
        known = self._conditions.get((text, phases))
        if known is None:
            known = tuple(str(problem) for problem in self._check_condition(text, phases))
            _remember(self._conditions, (text, phases), known)
        return known

    def _parameters(
        self, definition: PolicyDefinition | None, parameters: Any, document: Document, path: Path, load: _Load
    ) -> tuple[dict[str, Any], frozenset[str]] | None:
        """Return parameters with secrets and defaults in place and the pointers of the secret ones, or None."""
        resolution = resolve_secrets(parameters, load.secrets)
        for within, reason in resolution.problems:
            rule = Rule.REFERENCE if within in resolution.malformed else Rule.SECRET
            load.diagnostics.append(document.diagnostic((*path, *within), reason, rule=rule))
        if definition is None:
            return None
        checked = definition.parameters.check(resolution.parameters)
        unresolved = {within for within, _ in resolution.problems}
        for violation in checked.violations:
            if violation.path not in unresolved:
                load.diagnostics.append(_violation(violation, definition, document, path, resolution))
        if checked.violations or resolution.problems:
            return None
        secrets = checked.secrets | resolution.pointers
        digest = _digest(definition, checked.parameters)
        if digest not in self._constructed:
            load.pending.append(_Pending(Trial(definition, checked.parameters), digest, document, path, resolution))
        return checked.parameters, frozenset(secrets)

    def _construct(self, load: _Load) -> None:
        pending = {one.digest: one for one in load.pending}
        if not pending:
            return
        refusals = self._try([one.trial for one in pending.values()], self._construction_seconds)
        outcome = dict(zip(pending, refusals, strict=True))
        for digest, refusal in outcome.items():
            if refusal is None:
                _remember(self._constructed, digest, None)
        for one in load.pending:
            refusal = outcome[one.digest]
            if refusal is not None:
                load.diagnostics.append(_refusal(refusal, one))


def _openings(document: Document, path: Path, definition: PolicyDefinition, condition: str) -> Iterator[Diagnostic]:
    """Yield a warning for each look-up by which a request makes the condition fail, and with it skips the policy."""
    for one in unguarded(condition):
        yield document.diagnostic(
            (*path, "condition"),
            f"{definition} decides who gets in, and is skipped when the condition fails (failure_mode: open): a request"
            f" without this entry makes {one.lookup} fail; write `{one.guard} && …` before it, or failure_mode: closed",
            severity=Severity.WARNING,
            rule=Rule.OPEN_CONDITION,
        )


def _violation(
    violation: Violation, definition: PolicyDefinition, document: Document, path: Path, resolution: Resolution
) -> Diagnostic:
    hidden = any(
        pointer == violation.pointer or pointer.startswith(f"{violation.pointer}/") for pointer in resolution.pointers
    )
    reason = violation.reason if hidden or not violation.detail else f"{violation.reason}: {violation.detail}"
    whole = "the parameters " if not violation.path else ""
    return document.diagnostic(
        (*path, *violation.path),
        f"{definition}: {whole}{resolution.scrub(reason)}",
        key=violation.at_key,
        value=None if hidden else violation.value,
        allowed=resolution.scrub(violation.allowed),
        rule=Rule.PARAMETERS,
    )


def _refusal(refusal: Refusal, pending: _Pending) -> Diagnostic:
    resolution = pending.resolution
    at = refusal.pointer
    if at and any(pointer == at or pointer.startswith(f"{at}/") for pointer in resolution.pointers):
        # Whatever the policy says of this value may quote it, and be it a bracket of a regular expression.
        reason = "is not valid; why is not shown, as it holds a secret"
    else:
        reason = resolution.scrub_pieces(refusal.reason)
    return pending.document.diagnostic(
        (*pending.path, *path_within(pending.trial.parameters, refusal.pointer)),
        f"{pending.trial.definition}: {reason}",
        rule=Rule.REFUSED,
    )


def _digest(definition: PolicyDefinition, parameters: dict[str, Any]) -> bytes:
    text = json.dumps([definition.name, str(definition.version), definition.digest, parameters], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=32).digest()


def _remember(memory: dict[_K, _V], key: _K, value: _V) -> None:
    """Keep an outcome; the oldest goes when there are too many."""
    if len(memory) >= _REMEMBERED:
        del memory[next(iter(memory))]
    memory[key] = value
