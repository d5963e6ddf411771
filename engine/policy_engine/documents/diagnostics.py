"""What is wrong with a piece of configuration, where, and what would be right; as text, JSON and SARIF.

A separate module because engine, control plane, validator and builder report alike, and because this is the one place
that decides how an offending value is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

_SHOWN_LENGTH = 80
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


class Severity(StrEnum):
    """Whether a finding keeps the configuration from being used."""

    ERROR = "error"
    WARNING = "warning"


class Rule(StrEnum):
    """The kind of a finding; stable ids that CI systems may refer to."""

    UNREADABLE = "unreadable-file"
    YAML = "invalid-yaml"
    DUPLICATE_KEY = "duplicate-key"
    UNKNOWN_KEY = "unknown-key"
    MISSING_KEY = "missing-key"
    WRONG_TYPE = "wrong-type"
    WRONG_VALUE = "wrong-value"
    DUPLICATE_ROUTE = "duplicate-route"
    POSITIONAL_KEY = "positional-route-key"
    UNKNOWN_POLICY = "unknown-policy"
    UNKNOWN_VERSION = "unknown-version"
    CONDITION = "invalid-condition"
    OPEN_CONDITION = "condition-opens-route"
    OPEN_ROUTE = "route-without-authentication"
    TIE = "ambiguous-route-keys"
    UNKNOWN_LIST = "unknown-shared-list"
    UNUSED_LIST = "unused-shared-list"
    PARAMETERS = "invalid-parameters"
    REFUSED = "refused-by-policy"
    SECRET = "unresolved-secret"  # noqa: S105 - the name of a rule, not a secret
    REFERENCE = "invalid-secret-reference"
    SCHEMA = "invalid-schema"
    EXAMPLE = "invalid-example"
    IMPORT = "policy-import"
    INTERFACE = "policy-interface"
    PHASES = "phases-mismatch"
    HELD_TIME = "work-on-event-loop"
    DUPLICATE_POLICY = "duplicate-policy"
    REQUIREMENTS = "policy-requirements"
    MISSING_FILE = "missing-file"
    NOT_REVIEWED = "not-reviewed"
    APPLY = "not-applied"
    TOO_MANY = "too-many-findings"
    ENVOY_FILTER = "envoy-filter"
    ENVOY_OVERRIDE = "envoy-mode-override"
    ENVOY_TIMEOUT = "envoy-message-timeout"
    ENVOY_IDLE = "envoy-idle-timeout"
    ENVOY_RETRY = "envoy-retry-policy"
    ENVOY_BUFFER = "envoy-buffer-limit"
    ENVOY_ATTRIBUTE = "envoy-request-attribute"
    ENVOY_FAILURE_MODE = "envoy-failure-mode"
    ENVOY_MUTATION = "envoy-mutation-rules"
    ENVOY_MODE = "envoy-processing-mode"
    ENVOY_ROUTE = "envoy-route"
    ENVOY_CLUSTER = "envoy-cluster"
    ENVOY_HTTP2 = "envoy-http2"
    ENVOY_FLOOD = "envoy-flood-limit"
    ENVOY_CIRCUIT_BREAKER = "envoy-circuit-breaker"
    ENVOY_SPELLING = "envoy-spelling"
    ENVOY_UPGRADE = "envoy-upgrade"
    ENVOY_LOCAL_REPLY = "envoy-local-reply"
    ENVOY_SCALAR = "envoy-scalar"


MOST_FINDINGS = 1_000
"""Of one configuration; they are kept in the history, and no person reads more."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding.

    `line` and `column` count from 1, None where there is no text (environment, xDS). `path` is a JSON Pointer (RFC
    6901) into the file. `value` is the offending scalar, None to show none: whoever makes a diagnostic must leave out
    secrets (R-24). `allowed` says what would be right.
    `route` is the key or the name of the route that `path` leads into, which nobody has to count for.
    """

    file: str
    reason: str
    line: int | None = None
    column: int | None = None
    path: str = ""
    value: object = None
    allowed: str = ""
    severity: Severity = Severity.ERROR
    rule: Rule = Rule.WRONG_VALUE
    route: str = ""

    def __str__(self) -> str:
        place = self.file
        if self.line is not None:
            place += f":{self.line}:{self.column or 1}"
        warning = "warning: " if self.severity is Severity.WARNING else ""
        path = f"{self.path}: " if self.path else ""
        return f"{place}: {warning}{path}{self.message_with_route}"

    @property
    def message(self) -> str:
        """Reason, value and what is allowed, without the place."""
        got = f" (got {shown(self.value)})" if self.value is not None else ""
        allowed = f"; allowed: {self.allowed}" if self.allowed else ""
        return f"{self.reason}{got}{allowed}"

    @property
    def message_with_route(self) -> str:
        """The message, with the route at the end of its first line."""
        if not self.route:
            return self.message
        first, line_break, rest = self.message.partition("\n")
        return f"{first} (route {shown(self.route)}){line_break}{rest}"

    def as_document(self) -> dict[str, Any]:
        """Return the finding as JSON-able data."""
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "path": self.path,
            "route": self.route,
            "reason": self.reason,
            "value": None if self.value is None else shown(self.value),
            "allowed": self.allowed,
            "severity": self.severity.value,
            "rule": self.rule.value,
        }


class TooManyFindings(Exception):
    """So much is wrong that looking further would only cost time; the findings end with one that says so."""


class Findings(list[Diagnostic]):
    """A list of findings that ends: beyond `MOST_FINDINGS`, adding one raises TooManyFindings."""

    def append(self, finding: Diagnostic, /) -> None:
        """Add a finding."""
        if len(self) > MOST_FINDINGS:
            raise TooManyFindings
        if len(self) == MOST_FINDINGS:
            reason = f"there are more than {MOST_FINDINGS} findings; the rest is not looked for until these are mended"
            super().append(Diagnostic(finding.file, reason, finding.line, finding.column, rule=Rule.TOO_MANY))
            raise TooManyFindings
        super().append(finding)

    def extend(self, findings: Iterable[Diagnostic], /) -> None:
        """Add findings."""
        for one in findings:
            self.append(one)


def shown(value: object) -> str:
    """Return a value as JSON on one line, cut to a length that fits a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"


def has_errors(diagnostics: Iterable[Diagnostic]) -> bool:
    """Return whether one of the findings keeps the configuration from being used."""
    return any(one.severity is Severity.ERROR for one in diagnostics)


def ordered(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Return the findings by file and place, none twice; that there are too many comes last."""

    def place(one: Diagnostic) -> tuple[bool, str, int, int]:
        return (one.rule is Rule.TOO_MANY, one.file, one.line or 0, one.column or 0)

    return tuple(sorted(dict.fromkeys(diagnostics), key=place))


def render_text(diagnostics: Sequence[Diagnostic], *, rules: bool = False) -> str:
    """Return one finding per line (more for conditions, which show a caret) and a last line that counts them.

    With `rules` each ends with the name of its rule.
    """
    errors = sum(one.severity is Severity.ERROR for one in diagnostics)
    warnings = len(diagnostics) - errors
    counted = f"{errors} error{'' if errors == 1 else 's'}"
    if warnings:
        counted += f", {warnings} warning{'' if warnings == 1 else 's'}"
    lines = [f"{one} [{one.rule.value}]\n" if rules else f"{one}\n" for one in diagnostics]
    return "".join(lines) + f"{counted}\n"


def render_json(diagnostics: Sequence[Diagnostic]) -> str:
    """Return `{"errors": n, "warnings": n, "diagnostics": […]}`."""
    errors = sum(one.severity is Severity.ERROR for one in diagnostics)
    document = {
        "errors": errors,
        "warnings": len(diagnostics) - errors,
        "diagnostics": [one.as_document() for one in diagnostics],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def render_sarif(diagnostics: Sequence[Diagnostic], version: str) -> str:
    """Return a SARIF 2.1.0 log (OASIS) of one run of `policy-engine` in `version`, as code hosting sites read it."""
    rules = sorted({one.rule for one in diagnostics})
    driver: dict[str, Any] = {"name": "policy-engine", "version": version, "rules": [{"id": rule} for rule in rules]}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(one) for one in diagnostics],
    }
    return (
        json.dumps({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"
    )


def _result(diagnostic: Diagnostic) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": _uri(diagnostic.file)}}
    if diagnostic.line is not None:
        physical["region"] = {"startLine": diagnostic.line, "startColumn": diagnostic.column or 1}
    location: dict[str, Any] = {"physicalLocation": physical}
    if diagnostic.path:
        location["logicalLocations"] = [{"fullyQualifiedName": diagnostic.path}]
    return {
        "ruleId": diagnostic.rule.value,
        "level": diagnostic.severity.value,
        "message": {"text": diagnostic.message_with_route},
        "locations": [location],
    }


def _uri(file: str) -> str:
    path = PurePath(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())
