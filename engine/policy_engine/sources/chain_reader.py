"""Chains read from plain data: the one place that decides what a chain means, whatever source it came from.

Chain files and xDS resources are both brought into the shape of a chain file first, so that no check is written twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
from policy_engine.limits import BODY_LIMIT, CONSTRUCTION_SECONDS, LONGEST_POLICY_TIMEOUT, POLICY_TIMEOUT
from policy_engine.sdk.hooks import REQUEST_PHASES, Phase
from policy_engine.sdk.json_pointer import MISSING, Path, find, path_within
from policy_engine.sources.error_answers import read_errors
from policy_engine.sources.opened_routes import failing_conditions, why_open
from policy_engine.sources.shared_lists import MAX_POLICIES, SHARED, USE, Place, SharedLists
from policy_engine.sources.shares import Variant, read_share, read_variants
from policy_engine.worker.chains.error_answers import ErrorAnswers
from policy_engine.worker.chains.route_patterns import MAX_STARS, STAR, is_pattern, ties
from policy_engine.worker.chains.spec import (
    AnyOf,
    ChainsSpec,
    FailureMode,
    Mode,
    PolicySpec,
    RouteSpec,
    Unmapped,
)
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

FILE_KEYS = ("version", "errors", SHARED, "routes")
CHAIN_SETTINGS = ("body_limit",)
"""Keys of a route that go with its chain, and that a control plane hands on as they are."""
ROUTE_KEYS = ("route_key", "errors", "policies", "unmapped", *CHAIN_SETTINGS)
ALTERNATIVE_KEYS = (
    *("name", "version", "versions", "share", "enabled", "condition", "failure_mode", "timeout", "parameters"),
)
POLICY_KEYS = (*ALTERNATIVE_KEYS, "mode")
ANY_OF = "any_of"
GROUP_KEYS = (ANY_OF, "enabled", "condition", "mode", "share")

MAX_ROUTES = 100_000
MAX_ROUTE_KEY = 1024
MAX_CONDITION = 16 << 10

_VERSION_FORMS = "v1.0.0 (exact) or v1 (newest of that major version)"
_REMEMBERED = 20_000
_MOST_OPEN = 20
"""Routes without authentication that are warned of one by one."""

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class LoadedChains:
    """What was read: `chains` is None when one of the `diagnostics` is an error.

    `secret_files` are the files that references in parameters name, found or not, each with a digest of what was read.
    `places` tells for each route key where it stands.
    """

    chains: ChainsSpec | None
    diagnostics: tuple[Diagnostic, ...]
    secret_files: Mapping[FilePath, bytes] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)


@dataclass(slots=True)
class _Load:
    """What one load gathers before it can be judged as a whole."""

    secrets: SecretSource
    diagnostics: Findings = field(default_factory=Findings)
    shared: SharedLists = field(init=False)
    entries: dict[tuple[int, Path], tuple[PolicySpec, ...]] = field(default_factory=dict)
    routes: list[RouteSpec] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    opened: list[Diagnostic] = field(default_factory=list)
    pending: list[_Pending] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shared = SharedLists(self.diagnostics)


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
    `default_timeout` and `construction_seconds` (that a policy's constructor may take) are in seconds. `body_limit`, in
    bytes, is that of the engine: that of a route can only be less. `construct` is how policies are tried out: here, or
    in a process apart.
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
        body_limit: int = BODY_LIMIT,
        construct: Construct = construct_on_trial,
    ) -> None:
        self.registry = registry
        self._check_condition = check_condition
        self._secrets = secrets
        self._default_timeout = default_timeout
        self._construction_seconds = construction_seconds
        self._check_key = check_key
        self._strict_keys = strict_keys
        self._body_limit = body_limit
        self._try = construct
        self._constructed: dict[bytes, None] = {}
        self._conditions: dict[tuple[str, frozenset[Phase]], tuple[str, ...]] = {}

    def read_documents(
        self,
        documents: Iterable[Document],
        earlier: Iterable[Diagnostic] = (),
        once_read: Callable[[], None] = lambda: None,
    ) -> LoadedChains:
        """Read chain files as one configuration; `earlier` are findings that reading the files already made.

        `once_read` is called when every file has been read, before policies are tried out, which takes longer.
        """
        load = _Load(self._secrets(), Findings(earlier))
        documents = list(documents)
        with suppress(TooManyFindings):
            load.shared.add(documents)
            for document in documents:
                self._file(document, load)
            for place in load.shared.check_all():
                self._entry(place, load)
            _check_ties(load)
            _warn_of_open_routes(load)
        once_read()
        with suppress(TooManyFindings):
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
        return LoadedChains(chains, diagnostics, load.secrets.files, load.places)

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
        body_limit = fields.size("body_limit", most=self._body_limit)
        unmapped = fields.choice("unmapped", tuple(Unmapped), default="")
        if unmapped and "policies" in fields:
            reason = "stands beside `policies`: a route has a chain, or its keys count as unmapped; leave one out"
            fields.error(("unmapped",), reason)
        items = fields.items("policies", required="unmapped" not in fields, most=MAX_POLICIES)
        places = load.shared.places(document, (*path, "policies"), items)
        policies = _numbered(self._entry(place, load) for place in places)
        errors = general
        if "errors" in fields:
            errors = read_errors(document, (*path, "errors"), load.diagnostics).over(general)
        if key is None:
            return
        route = RouteSpec(key, policies, errors, body_limit, Unmapped(unmapped) if unmapped else None)
        load.diagnostics.extend(self._position(route, document, (*path, "route_key")))
        load.routes.append(route)
        reason = why_open(policies, self._authenticates)
        if reason:
            text = f"requests can get in without any policy that decides who: {reason}"
            load.opened.append(
                document.diagnostic((*path, "policies"), text, severity=Severity.WARNING, rule=Rule.OPEN_ROUTE)
            )

    def _position(self, route: RouteSpec, document: Document, path: Path) -> Iterator[Diagnostic]:
        """Yield a finding for a key that counts positions."""
        problem = self._check_key(route.route_key) if self._check_key is not None else ""
        guards = any(one.enabled and one.failure_mode is FailureMode.CLOSED for one in route.policies)
        if problem and (self._strict_keys or guards):
            severity = Severity.ERROR if self._strict_keys else Severity.WARNING
            yield document.diagnostic(path, problem, rule=Rule.POSITIONAL_KEY, severity=severity)

    def _note_route_key(self, key: str, document: Document, path: Path, fields: Fields, load: _Load) -> None:
        if key.count(STAR) > MAX_STARS:
            fields.error(("route_key",), f"has more than {MAX_STARS} stars", value=key)
        if 2 * STAR in key:
            reason = "has two stars side by side; one stands for any text"
            fields.error(("route_key",), reason, value=key, allowed=re.sub(r"\*+", STAR, key))
        if key not in load.places:
            load.places[key] = Place(document, (*path, "route_key"))
            return
        reason = f"the route key {key!r} is already used in {load.places[key]}; a route has one chain"
        fields.error(("route_key",), reason, rule=Rule.DUPLICATE_ROUTE)

    def _entry(self, place: Place, load: _Load) -> tuple[PolicySpec, ...]:
        """Return what the entry at `place` means: one policy, one for each of its versions, or a group; read once."""
        known = (id(place.document), place.path)
        if known not in load.entries:
            value = find(place.document.value, place.path)
            if isinstance(value, dict) and ANY_OF in value:
                load.entries[known] = self._group(place, load)
            else:
                load.entries[known] = tuple(self._policy(place, POLICY_KEYS, load))
        return load.entries[known]

    def _group(self, place: Place, load: _Load) -> tuple[PolicySpec, ...]:
        document, path = place.document, place.path
        fields = Fields(document, path, GROUP_KEYS, load.diagnostics, "a group of alternatives")
        condition = self._condition(fields, (frozenset({Phase.REQUEST_HEADERS}),))
        enabled = fields.boolean("enabled", default=True)
        mode = Mode(fields.choice("mode", tuple(Mode), default=Mode.ENFORCE) or Mode.ENFORCE)
        group = AnyOf(0, condition, read_share(fields, document, path, load.diagnostics))
        members: list[PolicySpec] = []
        items = fields.items(ANY_OF, most=MAX_POLICIES)
        for index, item in enumerate(items):
            member = Place(document, (*path, ANY_OF, index))
            if isinstance(item, dict) and (USE in item or ANY_OF in item):
                reason = "an alternative is a policy, neither a group nor a shared list"
                fields.error((ANY_OF, index), reason, rule=Rule.WRONG_TYPE)
                continue
            found = self._policy(member, ALTERNATIVE_KEYS, load)
            for reason in dict.fromkeys(filter(None, map(self._why_no_alternative, found))):
                fields.error((ANY_OF, index), reason)
            members += found
        if (
            "any_of" in fields
            and isinstance(fields.raw(ANY_OF), list)
            and not any(not isinstance(item, dict) or item.get("enabled") is not False for item in items)
        ):
            reason = (
                "has no alternative that is enabled, so that nobody would be let in; disable the whole group instead"
            )
            fields.error((ANY_OF,), reason)
        return tuple(replace(one, mode=mode, enabled=enabled and one.enabled, any_of=group) for one in members)

    def _why_no_alternative(self, spec: PolicySpec) -> str:
        definition = self.registry.resolve(spec.name, spec.version)
        if not definition.authenticates:
            return f"{definition} does not decide who gets in (`authenticates` in its policy.yaml): it would let all in"
        later = definition.phases & (REQUEST_PHASES - {Phase.REQUEST_HEADERS})
        if later or Phase.REQUEST_HEADERS not in definition.phases:
            return f"{definition} cannot be an alternative: which one lets a request in is decided at its headers"
        if spec.failure_mode is FailureMode.OPEN:
            return "failure_mode: open has no meaning here: an alternative that fails has let nobody in"
        return ""

    def _policy(self, place: Place, keys: tuple[str, ...], load: _Load) -> list[PolicySpec]:
        document, path = place.document, place.path
        what = "a policy" if "mode" in keys else "an alternative"
        fields = Fields(document, path, keys, load.diagnostics, what)
        if not isinstance(find(document.value, path), dict):
            return []
        variants = self._variants(fields, document, path, load)
        name = fields.text("name", required=True)
        definitions = [self._definition(fields, name, one) for one in variants]
        condition = self._condition(fields, {one.phases if one is not None else frozenset() for one in definitions})
        enabled = fields.boolean("enabled", default=True)
        failure_mode = FailureMode(
            fields.choice("failure_mode", tuple(FailureMode), default=FailureMode.CLOSED) or FailureMode.CLOSED
        )
        mode = Mode(fields.choice("mode", tuple(Mode), default=Mode.ENFORCE) or Mode.ENFORCE)
        if condition is not None and failure_mode is FailureMode.OPEN and mode is Mode.ENFORCE:
            for one in definitions:
                if one is not None and one.authenticates:
                    load.diagnostics.extend(failing_conditions(document, path, one, condition))
        timeout = fields.duration("timeout", default=self._default_timeout, longest=LONGEST_POLICY_TIMEOUT)
        specs = []
        for variant, definition in zip(variants, definitions, strict=True):
            checked = self._variant_parameters(fields, variant, definition, place, load)
            if definition is not None and checked is not None:
                specs.append(
                    PolicySpec(
                        name=definition.name,
                        version=str(definition.version),
                        enabled=enabled,
                        condition=condition,
                        failure_mode=failure_mode,
                        timeout=timeout,
                        parameters=checked[0],
                        secrets=checked[1],
                        requested_version=str(variant.version),
                        mode=mode,
                        share=variant.share,
                    )
                )
        return specs

    @staticmethod
    def _variants(fields: Fields, document: Document, path: Path, load: _Load) -> list[Variant]:
        """Return the versions that an entry names; one without a share unless it has one."""
        if "versions" in fields:
            return read_variants(fields, document, path, load.diagnostics)
        version = fields.raw("version")
        if isinstance(version, int | float) and not isinstance(version, bool):
            fields.error(("version",), "is a number", value=version, rule=Rule.WRONG_TYPE, allowed=_VERSION_FORMS)
            version = None
        else:
            version = fields.text("version", required=True)
        share = read_share(fields, document, path, load.diagnostics)
        return [Variant(version, ("version",), ("parameters",), share)]

    def _variant_parameters(
        self, fields: Fields, variant: Variant, definition: PolicyDefinition | None, place: Place, load: _Load
    ) -> tuple[dict[str, Any], frozenset[str]] | None:
        within = variant.parameters
        parameters = find(place.document.value, (*place.path, *within))
        if parameters is MISSING:
            parameters = {}
        if not isinstance(parameters, dict):
            reason = f"must be an object, not {type_in_words(parameters)} (write {{}} for none)"
            fields.error(within, reason, rule=Rule.WRONG_TYPE)
            return None
        return self._parameters(definition, parameters, place.document, (*place.path, *within), load)

    def _condition(self, fields: Fields, phases: Iterable[frozenset[Phase]]) -> str | None:
        """Return the condition of an entry whose policies have these phases."""
        condition = fields.text("condition", longest=MAX_CONDITION)
        if condition is not None:
            for problem in dict.fromkeys(found for one in phases for found in self._condition_problems(condition, one)):
                fields.error(("condition",), problem, rule=Rule.CONDITION)
        return condition

    def _authenticates(self, spec: PolicySpec) -> bool:
        return self.registry.resolve(spec.name, spec.version).authenticates

    def _definition(self, fields: Fields, name: str | None, variant: Variant) -> PolicyDefinition | None:
        if name is None:
            return None
        version = variant.version
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
                fields.error(variant.within, reason, value=version, rule=Rule.UNKNOWN_VERSION, allowed=available)
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


def _numbered(entries: Iterable[tuple[PolicySpec, ...]]) -> tuple[PolicySpec, ...]:
    """Return the policies of a chain, the members of each group with a number that no other group has."""
    found: list[PolicySpec] = []
    for number, specs in enumerate(entries):
        for one in specs:
            group = one.any_of
            found.append(one if group is None else replace(one, any_of=replace(group, number=number)))
    return tuple(found)


def _check_ties(load: _Load) -> None:
    order = {key: number for number, key in enumerate(load.places)}
    for pair in ties(key for key in order if is_pattern(key)):
        one, other = sorted(pair, key=order.__getitem__)
        first, second = load.places[one], load.places[other]
        reason = (
            f"the route key {other!r} and {one!r} ({first}) match the same keys and are equally specific; the one with "
            "more literal characters would win, so make one of them longer"
        )
        load.diagnostics.append(second.document.diagnostic(second.path, reason, rule=Rule.TIE))


def _warn_of_open_routes(load: _Load) -> None:
    load.diagnostics.extend(load.opened[:_MOST_OPEN])
    if len(load.opened) > _MOST_OPEN:
        last = load.opened[_MOST_OPEN]
        reason = f"the same is so for {len(load.opened) - _MOST_OPEN} more routes, of which this is the first"
        load.diagnostics.append(replace(last, reason=reason))


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
