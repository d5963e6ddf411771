"""Everything wrong with a choice of policies in one report, grouped by policy, as text and as JSON (R-42).

A separate module because every check adds to it, and what is printed must not depend on the order of the checks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from policy_engine.documents.diagnostics import Diagnostic, Severity, ordered


@dataclass(slots=True)
class Report:
    """Findings by subject: a policy (`set-header v1.0.0`), the manifest, the engine."""

    _findings: dict[str, list[Diagnostic]] = field(default_factory=dict)

    def add(self, subject: str, findings: Iterable[Diagnostic]) -> None:
        """Add findings about `subject`."""
        found = list(findings)
        if found:
            self._findings.setdefault(subject, []).extend(found)

    @property
    def findings(self) -> Mapping[str, tuple[Diagnostic, ...]]:
        """All findings, subjects in the order of their names, none twice."""
        return {subject: ordered(self._findings[subject]) for subject in sorted(self._findings)}

    def count(self, severity: Severity) -> int:
        """Return how many findings are of `severity`."""
        return sum(one.severity is severity for found in self.findings.values() for one in found)

    @property
    def failed(self) -> bool:
        """Whether there is an error, so that no image may be made."""
        return self.count(Severity.ERROR) > 0

    def render_text(self) -> str:
        """Return each subject with its findings below it, and a last line that counts them."""
        lines = []
        for subject, found in self.findings.items():
            lines.append(subject)
            lines += [f"  {str(one).replace(chr(10), chr(10) + '  ')}" for one in found]
        return _printable("".join(f"{line}\n" for line in [*lines, self.summary()]))

    def summary(self) -> str:
        """Return the counts in words."""
        counts = []
        for severity in (Severity.ERROR, Severity.WARNING):
            number = self.count(severity)
            if number or severity is Severity.ERROR:
                counts.append(f"{number} {severity.value}{'' if number == 1 else 's'}")
        return ", ".join(counts)

    def as_document(self) -> dict[str, Any]:
        """Return `{"errors": n, "warnings": n, "subjects": [{"subject": …, "findings": […]}]}`."""
        return {
            "errors": self.count(Severity.ERROR),
            "warnings": self.count(Severity.WARNING),
            "subjects": [
                {"subject": subject, "findings": [one.as_document() for one in found]}
                for subject, found in self.findings.items()
            ],
        }

    def render_json(self) -> str:
        """Return `as_document` as JSON text."""
        return as_json(self.as_document())


def as_json(document: Mapping[str, Any]) -> str:
    """Return a report, or what is built around one, as JSON text."""
    return _printable(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _printable(text: str) -> str:
    """Return `text` with what no encoding has (bytes in names, lone surrogates) as escapes, as JSON has them."""
    return text.encode(errors="backslashreplace").decode()
