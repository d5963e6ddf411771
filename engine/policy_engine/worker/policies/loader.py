"""Policy directories loaded into definitions, and definitions gathered into the registry (R-13, R-30).

A separate module because it alone joins the two halves of a policy, its manifest and its code, and holds them to each
other. A registry comes from the `registry.json` that the builder wrote, or from a directory tree during development.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from policy_engine.documents.diagnostics import Diagnostic, Rule, Severity, has_errors, ordered, render_text
from policy_engine.documents.fields import Fields
from policy_engine.documents.yaml_document import Document, read_document_file
from policy_engine.sdk import Policy
from policy_engine.sdk.hooks import HOOKS, Phase, names_of
from policy_engine.worker.policies.importing import PolicyImportError, import_policy_module
from policy_engine.worker.policies.integrity import Verification, directory_digest, verify
from policy_engine.worker.policies.manifest import PolicyManifest, read_manifest
from policy_engine.worker.policies.registry import (
    MANIFEST_FILE,
    DuplicatePolicy,
    ListedPolicy,
    PolicyDefinition,
    Registry,
    Unusable,
    Version,
    metric_conflicts,
)

REGISTRY_KEYS = ("name", "version", "entrypoint", "directory", "digest")

SHARED = "shared"
"""Directory of a development tree that holds libraries several policies share."""

_VERSION_DIRECTORY = re.compile(r"v(0|[1-9]\d{0,8})_(0|[1-9]\d{0,8})_(0|[1-9]\d{0,8})", re.ASCII)


def load_policy(directory: Path, digest: str | None = None) -> tuple[PolicyDefinition | None, list[Diagnostic]]:
    """Load the policy in `directory` with everything wrong with it; None when something is.

    `digest` is for those who need none; without it, it is that of the files.
    """
    manifest, diagnostics = read_manifest(directory / MANIFEST_FILE)
    if manifest is None:
        return None, diagnostics
    policy_class, found = import_policy_class(directory, manifest)
    diagnostics += found
    if policy_class is None or has_errors(found):
        return None, diagnostics
    definition = PolicyDefinition(
        name=manifest.name,
        version=manifest.version,
        description=manifest.description,
        entrypoint=manifest.entrypoint,
        phases=manifest.phases,
        parameters_schema=manifest.parameters_schema,
        examples=manifest.examples,
        policy_class=policy_class,
        source=directory,
        authenticates=manifest.authenticates,
        request_attributes=manifest.request_attributes,
        forwarding_namespaces=manifest.forwarding_namespaces,
        digest=digest if digest is not None else directory_digest(directory),
        parameters=manifest.parameters,
    )
    return definition, diagnostics


def import_traceback(directory: Path) -> str:
    """Return Python's own report of why the code in `directory` cannot be imported, from its first frame in there on.

    Empty when it can, or when that is not what is wrong with the policy.
    """
    manifest, _ = read_manifest(directory / MANIFEST_FILE)
    if manifest is None:
        return ""
    try:
        import_policy_module(directory, manifest.module, f"{manifest.name}_{manifest.version}")
    except PolicyImportError as error:
        cause = error.__cause__ or error
        frame = cause.__traceback__
        while frame is not None and not Path(frame.tb_frame.f_code.co_filename).is_relative_to(directory.resolve()):
            frame = frame.tb_next
        return "".join(traceback.format_exception(type(cause), cause, frame))
    return ""


def import_policy_class(directory: Path, manifest: PolicyManifest) -> tuple[type[Policy] | None, list[Diagnostic]]:
    """Import the class that the manifest names and hold it against the interface and the declared phases."""
    try:
        module = import_policy_module(directory, manifest.module, f"{manifest.name}_{manifest.version}")
    except PolicyImportError as error:
        reason = f"policy {manifest.name} {manifest.version} {error.reason}"
        column = 1 if error.line is not None else None
        return None, [Diagnostic(str(error.file), reason, error.line, column, rule=Rule.IMPORT)]
    found = getattr(module, manifest.class_name, None)
    document = manifest.document
    if found is None:
        classes = [name for name, one in vars(module).items() if _is_policy(one)]
        reason = f"module {manifest.module} has no class {manifest.class_name!r}"
        allowed = ", ".join(f"{manifest.module}:{name}" for name in classes)
        return None, [document.diagnostic(("entrypoint",), reason, allowed=allowed, rule=Rule.INTERFACE)]
    if not _is_policy(found):
        reason = f"{manifest.entrypoint} is not a subclass of policy_engine.sdk.Policy"
        return None, [document.diagnostic(("entrypoint",), reason, rule=Rule.INTERFACE)]
    return found, list(_phase_findings(found, manifest))


def _is_policy(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Policy) and found is not Policy


def _phase_findings(policy_class: type[Policy], manifest: PolicyManifest) -> Iterator[Diagnostic]:
    """Compare declared phases with overridden hooks, both ways: a hook nobody declared would never run."""
    declared = list(manifest.document.value["phases"])
    for phase in Phase:
        hooks = names_of(phase)
        overridden = [hook.name for hook in HOOKS if hook.phase is phase and hook.overridden_by(policy_class)]
        if phase in manifest.phases and not overridden:
            reason = f"declares {phase}, but {policy_class.__name__} does not override {' or '.join(hooks)}"
            place = ("phases", declared.index(phase))
            yield manifest.document.diagnostic(place, reason, rule=Rule.PHASES)
        elif overridden and phase not in manifest.phases:
            reason = f"{policy_class.__name__} overrides {', '.join(overridden)}, which would never run"
            yield manifest.document.diagnostic(
                ("phases",), reason, allowed=f"add {phase} to phases, or remove the method", rule=Rule.PHASES
            )
    known = {name for name in dir(Policy) if name.startswith("on_")}
    for name in sorted(set(dir(policy_class)) - known):
        if name.startswith(("on_request", "on_response")):
            yield manifest.document.diagnostic(
                ("entrypoint",),
                f"{policy_class.__name__}.{name} is not a hook the engine knows; it would never run",
                allowed=", ".join(sorted(known)),
                severity=Severity.WARNING,
                rule=Rule.INTERFACE,
            )


def load_registry_file(
    path: Path, on_demand: Verification | None = None, *, strict: bool = False
) -> tuple[Registry | None, tuple[Diagnostic, ...]]:
    """Load every policy that the builder's `registry.json` lists; its directories are relative to the file.

    With `on_demand`, what a comparison of the same files came to, each is loaded when it is first resolved, as the
    builder has loaded all of them before: what is wrong with one is then for those who name it. With `strict` it is
    compared once more before that.
    """
    # JSON is read as YAML, which it is a part of, to have the line of each entry.
    document, diagnostics = read_document_file(path)
    if document is None:
        return None, tuple(diagnostics)
    if not isinstance(document.value, list):
        reason = "a registry is a list of policies"
        return None, (
            *diagnostics,
            document.diagnostic((), reason, allowed=f"a list of {{{', '.join(REGISTRY_KEYS)}}}"),
        )
    digests = {part.name: part.digest for part in on_demand.parts if part.kind == "policy"} if on_demand else {}
    definitions: list[PolicyDefinition | ListedPolicy] = []
    for index, _ in enumerate(document.value):
        fields = Fields(document, (index,), REGISTRY_KEYS, diagnostics, "a registry entry")
        wanted = {key: str(fields.text(key, required=True, longest=4096)) for key in REGISTRY_KEYS}
        if not fields.ok:
            continue
        entry = _Entry(document, index, wanted, path, strict)
        known = digests.get(f"{wanted['name']} {wanted['version']}")
        if known:
            with suppress(ValueError):
                version = Version.parse(wanted["version"])
                definitions.append(ListedPolicy(wanted["name"], version, entry.directory, known, entry.load))
                continue
        definition, found = entry.load()
        diagnostics += found
        if definition is not None:
            definitions.append(definition)
    return _registry(definitions, diagnostics)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of the file `registry`."""

    document: Document
    index: int
    wanted: Mapping[str, str]
    registry: Path
    strict: bool

    @property
    def directory(self) -> Path:
        return self.registry.parent / self.wanted["directory"]

    def load(self) -> tuple[PolicyDefinition | None, list[Diagnostic]]:
        """Load the policy and hold it against the entry."""
        if self.strict:
            unlike = verify(self.registry, engine=False, policy=f"{self.wanted['name']} {self.wanted['version']}")
            if found := unlike.diagnostics():
                return None, found
        definition, diagnostics = load_policy(self.directory)
        if definition is None:
            return None, diagnostics
        actual = {"name": definition.name, "version": str(definition.version), "entrypoint": definition.entrypoint}
        for key, value in actual.items():
            if self.wanted[key] != value:
                reason = f"does not agree with {self.directory / MANIFEST_FILE}"
                place = (self.index, key)
                found_here = self.document.diagnostic(place, reason, value=self.wanted[key], allowed=value)
                diagnostics.append(found_here)
        return (None if has_errors(diagnostics) else definition), diagnostics


def load_policy_tree(root: Path, *, only_named: bool = False) -> tuple[Registry | None, tuple[Diagnostic, ...]]:
    """Load every policy in `root/<name>/<v1_0_0>/`; other directories there are passed over.

    With `only_named`, policies that cannot be loaded are kept apart in the registry: a library that one of many lacks
    is nothing to those who do not use it. Libraries in `root/shared/` are importable, as they are in an image (there
    through the build).
    """
    if not root.is_dir():
        reason = "is not a directory of policies (<name>/<v1_0_0>/policy.yaml)"
        return None, (Diagnostic(str(root), reason, rule=Rule.UNREADABLE),)
    definitions = []
    unusable = []
    diagnostics: list[Diagnostic] = []
    shared = str((root / SHARED).absolute())
    if Path(shared).is_dir() and shared not in sys.path:
        sys.path.append(shared)
    for directory in sorted(root.glob("*/*/")):
        named = _VERSION_DIRECTORY.fullmatch(directory.name) is not None
        if not named and not (directory / MANIFEST_FILE).exists():
            continue
        definition, found = load_policy(directory)
        if definition is None and named and only_named:
            version = Version.parse(directory.name.replace("_", "."))
            unusable.append(Unusable(directory.parent.name, version, ordered(found)))
            continue
        diagnostics += found
        if definition is None:
            continue
        definitions.append(definition)
        expected = f"{definition.name}/{str(definition.version).replace('.', '_')}"
        if directory.parts[-2:] != tuple(expected.split("/")):
            reason = f"policy {definition} belongs in the directory {expected}"
            diagnostics.append(Diagnostic(str(directory / MANIFEST_FILE), reason, rule=Rule.INTERFACE))
    return _registry(definitions, diagnostics, unusable)


def _registry(
    definitions: Iterable[PolicyDefinition | ListedPolicy],
    diagnostics: list[Diagnostic],
    unusable: Iterable[Unusable] = (),
) -> tuple[Registry | None, tuple[Diagnostic, ...]]:
    """Make the registry; a policy that is there twice is one more finding, and any finding leaves no registry."""
    unique: dict[str, PolicyDefinition | ListedPolicy] = {}
    for definition in definitions:
        first = unique.setdefault(str(definition), definition)
        if first is not definition:
            file = str(Path(definition.source) / MANIFEST_FILE)
            diagnostics.append(Diagnostic(file, str(DuplicatePolicy(first, definition)), rule=Rule.DUPLICATE_POLICY))
    diagnostics += metric_conflicts(one for one in unique.values() if isinstance(one, PolicyDefinition))
    if has_errors(diagnostics):
        return None, ordered(diagnostics)
    return Registry(unique.values(), unusable), ordered(diagnostics)


class PoliciesUnusable(ValueError):
    """The policies of this engine cannot be loaded; `diagnostics` lists everything wrong with them."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        self.diagnostics = diagnostics
        super().__init__(render_text(diagnostics).rstrip())


def refuse_unlike(verification: Verification) -> None:
    """Raise PoliciesUnusable unless everything that was compared is what was reviewed, and something was."""
    if unlike := verification.diagnostics():
        raise PoliciesUnusable(ordered(unlike))


def load_policies(
    path: Path | None, *, strict: bool = False, engine: bool = True, on_demand: Verification | None = None
) -> Registry:
    """Load the policies of a `registry.json` (a file) or of a development tree (a directory); none without a path.

    Of a tree, those that cannot be loaded matter to chains that name them alone. With `strict` nothing is imported
    unless all of it, and with `engine` the engine itself, is what the builder wrote the digests of. `on_demand`: see
    `load_registry_file`; with it, the comparison that `strict` wants was made. Raises PoliciesUnusable with every
    finding at once.
    """
    if path is None:
        return Registry()
    if strict:
        refuse_unlike(verify(path, engine=engine) if on_demand is None else on_demand)
    if path.is_dir():
        registry, diagnostics = load_policy_tree(path, only_named=True)
    else:
        registry, diagnostics = load_registry_file(path, on_demand, strict=strict)
    if registry is None:
        raise PoliciesUnusable(diagnostics)
    return registry
