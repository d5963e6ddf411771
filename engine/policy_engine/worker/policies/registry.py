"""The policies this engine was built with, and how a chain's name and version find one of them (R-13).

A separate module because it decides what "available" means, for the engine, the validator and the control plane alike.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.sdk import Policy
from policy_engine.sdk.hooks import Phase
from policy_engine.sdk.metrics import Metric, metrics_of
from policy_engine.worker.policies.parameters import ParameterSchema

MANIFEST_FILE = "policy.yaml"
"""The face of a policy, in its directory."""


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A policy version, written `v1.2.3`."""

    major: int
    minor: int
    patch: int

    _PATTERN: ClassVar[re.Pattern[str]] = re.compile(r"v(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})", re.ASCII)

    @classmethod
    def parse(cls, text: str) -> Version:
        """Return the version that `text` names; raises ValueError unless it has the form `v1.2.3`."""
        match = cls._PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a version of the form v1.2.3")
        return cls(*(int(number) for number in match.groups()))

    def __str__(self) -> str:
        return f"v{self.major}.{self.minor}.{self.patch}"


_MAJOR = re.compile(r"v(0|[1-9]\d{0,8})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Example:
    """A set of parameters from `policy.yaml` that shows how the policy is used."""

    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PolicyDefinition:
    """One version of one policy, loaded and checked.

    `entrypoint` is `module:Class`, `source` where it was loaded from, `digest` the hash of its files.
    `request_attributes` and `forwarding_namespaces` are what it asks Envoy to tell of each request. `parameters` is
    `parameters_schema` compiled, kept here so that it is compiled once however many chains use the policy; it is made
    from the schema unless given, which raises `SchemaError` for a wrong one.
    """

    name: str
    version: Version
    description: str
    entrypoint: str
    phases: frozenset[Phase]
    parameters_schema: Mapping[str, Any]
    examples: tuple[Example, ...]
    policy_class: type[Policy]
    source: Path | str
    digest: str
    authenticates: bool = False
    request_attributes: frozenset[str] = frozenset()
    forwarding_namespaces: frozenset[str] = frozenset()
    parameters: ParameterSchema = field(default=None, repr=False, compare=False)  # type: ignore[assignment] # see below

    def __post_init__(self) -> None:
        # The default of None never survives construction, so users need not check for it.
        if self.parameters is None:
            object.__setattr__(self, "parameters", ParameterSchema(self.parameters_schema))

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


Load = Callable[[], tuple[PolicyDefinition | None, Sequence[Diagnostic]]]


@dataclass(frozen=True, slots=True)
class ListedPolicy:
    """A policy that a registry's file lists, whose manifest and code are read when it is first resolved.

    `load` returns it, or None with everything wrong with it. `digest` is that of its files when they were compared.
    """

    name: str
    version: Version
    source: Path
    digest: str
    load: Load = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def exported_name(definition: PolicyDefinition, metric: Metric) -> str:
    """Return the name under which a policy's own metric is shown to Prometheus, without its endings."""
    return f"policy_{definition.name.replace('-', '_')}_{metric.name}"


def metric_conflicts(definitions: Iterable[PolicyDefinition]) -> Iterator[Diagnostic]:
    """Yield a finding for each metric that is of two kinds: what has one name is one family to Prometheus."""
    first: dict[str, tuple[PolicyDefinition, Metric]] = {}
    for definition in definitions:
        for metric in metrics_of(definition.policy_class):
            name = exported_name(definition, metric)
            other, known = first.setdefault(name, (definition, metric))
            if known.kind != metric.kind:
                reason = f"metric {name} is a {metric.kind} of policy {definition} and a {known.kind} of {other}"
                file = str(Path(definition.source) / MANIFEST_FILE)
                yield Diagnostic(file, f"{reason}; give one of them another name", rule=Rule.INTERFACE)


class UnknownPolicy(LookupError):
    """No version of the named policy is in this engine; the message says what is, and `nearest` what was meant."""

    def __init__(self, name: str, available: Sequence[str]) -> None:
        close = difflib.get_close_matches(name, available, n=1)
        self.name = name
        self.available = tuple(available)
        self.nearest = close[0] if close else None
        meant = f"; did you mean {self.nearest!r}?" if self.nearest else ""
        listing = ", ".join(available) if available else "none, it was built without policies"
        super().__init__(f"policy {name!r} is not in this engine{meant} (available: {listing})")


class UnknownVersion(LookupError):
    """The policy is in this engine, but not in the wanted version; the message names the versions that are."""

    def __init__(self, name: str, version: str, available: Sequence[Version], *, wrong_form: bool) -> None:
        self.name = name
        self.version = version
        self.available = tuple(available)
        listing = ", ".join(str(one) for one in available)
        reason = (
            f"version {version!r} of policy {name!r} is neither exact (v1.0.0) nor a major version (v1)"
            if wrong_form
            else f"policy {name!r} is not in this engine in version {version}"
        )
        super().__init__(f"{reason} (available: {listing})")


@dataclass(frozen=True, slots=True)
class Unusable:
    """A policy that is there and could not be loaded, with why."""

    name: str
    version: Version
    diagnostics: tuple[Diagnostic, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class UnusablePolicy(LookupError):
    """The policy that is meant is there, but could not be loaded; an older version is not taken in its place."""

    def __init__(self, unusable: Unusable) -> None:
        self.unusable = unusable
        super().__init__(f"policy {unusable} cannot be loaded: {unusable.diagnostics[0]}")


class DuplicatePolicy(ValueError):
    """Two policies have the same name and version."""

    def __init__(self, first: PolicyDefinition | ListedPolicy, second: PolicyDefinition | ListedPolicy) -> None:
        self.first = first
        self.second = second
        super().__init__(f"policy {first} is defined twice: in {first.source} and in {second.source}")


class Registry:
    """A set of policies that stays the same; raises DuplicatePolicy when two share name and version.

    Those that are `unusable`, and what is wrong with those that are listed only, matters to chains that name them.
    """

    __slots__ = ("_by_name", "unusable")

    def __init__(
        self, definitions: Iterable[PolicyDefinition | ListedPolicy] = (), unusable: Iterable[Unusable] = ()
    ) -> None:
        self.unusable = tuple(unusable)
        self._by_name: dict[str, dict[Version, PolicyDefinition | ListedPolicy]] = {}
        for definition in sorted(definitions, key=lambda one: (one.name, one.version)):
            versions = self._by_name.setdefault(definition.name, {})
            if definition.version in versions:
                raise DuplicatePolicy(versions[definition.version], definition)
            versions[definition.version] = definition

    def resolve(self, name: str, version: str) -> PolicyDefinition:
        """Return the definition for `v1.0.0` (exact) or `v1` (newest of that major version).

        Raises UnknownPolicy or UnknownVersion, whose messages name what is available (R-13), and UnusablePolicy.
        """
        self._refuse_unusable(name, version)
        versions = self._by_name.get(name)
        if versions is None:
            raise UnknownPolicy(name, tuple(self._by_name))
        major = _MAJOR.fullmatch(version)
        if major is not None:
            matching = [one for one in versions if one.major == int(major[1])]
            if matching:
                return self._loaded(versions[matching[-1]])
            raise UnknownVersion(name, version, tuple(versions), wrong_form=False)
        try:
            wanted = Version.parse(version)
        except ValueError:
            raise UnknownVersion(name, version, tuple(versions), wrong_form=True) from None
        if wanted not in versions:
            raise UnknownVersion(name, version, tuple(versions), wrong_form=False)
        return self._loaded(versions[wanted])

    def _loaded(self, policy: PolicyDefinition | ListedPolicy) -> PolicyDefinition:
        if isinstance(policy, PolicyDefinition):
            return policy
        definition, diagnostics = policy.load()
        if definition is not None:
            diagnostics = tuple(metric_conflicts((*self.loaded(), definition)))
        if definition is None or diagnostics:
            raise UnusablePolicy(Unusable(policy.name, policy.version, tuple(diagnostics)))
        # Of two threads that load it at once, both go on with what the first one has found.
        versions = self._by_name[policy.name]
        found = versions[policy.version]
        if isinstance(found, ListedPolicy):
            versions[policy.version] = found = definition
        return found

    def _refuse_unusable(self, name: str, version: str) -> None:
        unusable = {one.version: one for one in self.unusable if one.name == name}
        if not unusable:
            return
        major = _MAJOR.fullmatch(version)
        if major is None:
            wanted = next((one for one in unusable if str(one) == version), None)
        else:
            known = (*unusable, *self._by_name.get(name, ()))
            wanted = max((one for one in known if one.major == int(major[1])), default=None)
        if wanted in unusable:
            raise UnusablePolicy(unusable[wanted])

    def names(self) -> tuple[str, ...]:
        """Return the policy names, sorted."""
        return tuple(self._by_name)

    def versions(self, name: str) -> tuple[Version, ...]:
        """Return the versions of `name`, oldest first; empty when it is unknown."""
        return tuple(self._by_name.get(name, ()))

    def listing(self) -> Iterator[PolicyDefinition | ListedPolicy]:
        """Yield every policy, sorted by name and version, without loading any."""
        return (policy for versions in self._by_name.values() for policy in tuple(versions.values()))

    def loaded(self) -> Iterator[PolicyDefinition]:
        """Yield every policy that is loaded by now, sorted by name and version."""
        return (policy for policy in self.listing() if isinstance(policy, PolicyDefinition))

    def __iter__(self) -> Iterator[PolicyDefinition]:
        """Yield every policy, sorted by name and version, loading it; raises UnusablePolicy."""
        return map(self._loaded, self.listing())

    def __len__(self) -> int:
        return sum(len(versions) for versions in self._by_name.values())

    def __repr__(self) -> str:
        return f"Registry({', '.join(map(str, self.listing()))})"
