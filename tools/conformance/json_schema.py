"""Runs JSON-Schema-Test-Suite (draft 2020-12, optional parts and formats included) against json-schema-validation.

The suite is not in this repository. The source package of `jsonschema` carries it, pinned to the version of the lock:

    pip download --no-deps --no-binary :all: --dest DIR jsonschema==4.26.0
    tar -C DIR -xzf DIR/jsonschema-4.26.0.tar.gz
    PYTHONPATH=engine:policies/shared:. python -m tools.conformance.json_schema DIR/jsonschema-4.26.0/json

It prints a table and exits with 1 when a case differs that `EXPECTED` does not list, or does as it should although
`EXPECTED` says that it differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policy_engine.sdk import ParameterError
from policy_engine.sdk.testing import policy_class

POLICY = Path(__file__).parents[2] / "policies" / "json-schema-validation" / "v1_0_0"
DRAFT = "draft2020-12"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

_ID = "$id is possible only at the root"
_REFERENCE = "leads to no schema"
_WORD = "is not a keyword"
_FORMAT = "this format cannot be checked"
_UNEVALUATED = "cannot be combined with patternProperties"
_RE2 = "not a regular expression that RE2 can run"
_DIALECT = "the dialect is"
DIFFERS = "answers differ"

EXPECTED: dict[tuple[str, str], tuple[int, str]] = {
    ("anchor.json", _ID): (3, "no identifiers below the root: nothing is fetched, so that nothing needs a name"),
    ("defs.json", _REFERENCE): (1, "references stay inside the schema"),
    ("dynamicRef.json", _ID): (11, "as above"),
    ("dynamicRef.json", _REFERENCE): (5, "as above"),
    ("optional/cross-draft.json", _REFERENCE): (1, "as above"),
    ("optional/dependencies-compatibility.json", _WORD): (7, "words of older drafts are refused, not ignored"),
    ("optional/dynamicRef.json", _ID): (1, "as above"),
    ("optional/ecmascript-regex.json", _RE2): (6, "expressions are RE2's, which take linear time"),
    ("optional/ecmascript-regex.json", DIFFERS): (10, r"\s and \S are RE2's: ASCII white space"),
    ("optional/format-assertion.json", _DIALECT): (2, "one dialect; check_formats says whether formats are checked"),
    ("optional/format/ecmascript-regex.json", _FORMAT): (1, "what is an expression depends on who runs it"),
    ("optional/format/idn-email.json", _FORMAT): (1, "not supported, and refused at load"),
    ("optional/format/idn-hostname.json", _FORMAT): (2, "not supported, and refused at load"),
    ("optional/format/regex.json", _FORMAT): (1, "what is an expression depends on who runs it"),
    ("optional/format/unknown.json", _FORMAT): (1, "unknown formats are refused, not ignored"),
    ("optional/id.json", _ID): (1, "as above"),
    ("optional/refOfUnknownKeyword.json", _REFERENCE): (1, "as above"),
    ("optional/refOfUnknownKeyword.json", _WORD): (2, "unknown words are refused, not ignored"),
    ("optional/unknownKeyword.json", _WORD): (1, "unknown words are refused, not ignored"),
    ("ref.json", _ID): (11, "as above"),
    ("ref.json", _REFERENCE): (4, "as above"),
    ("refRemote.json", _ID): (3, "as above"),
    ("refRemote.json", _REFERENCE): (12, "as above"),
    ("unevaluatedItems.json", _ID): (1, "as above"),
    ("unevaluatedProperties.json", _ID): (1, "as above"),
    ("unevaluatedProperties.json", _UNEVALUATED): (4, "jsonschema runs Python's expressions there"),
    ("vocabulary.json", _DIALECT): (2, "one dialect"),
}
"""What differs on purpose: by file and kind how many groups are refused at load, or cases answered in another way."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one file went: cases answered as expected, and what differed by kind."""

    file: str
    passed: int
    differed: Counter[str]
    examples: dict[str, str]


def run(suite: Path) -> Iterator[Outcome]:
    """Yield the outcome of each file of the suite, whose root (with `tests/`) is `suite`."""
    module = policy_class(POLICY).__module__.rpartition(".")[0]
    body_schema: Any = sys.modules[f"{module}.schema"].BodySchema
    root = suite / "tests" / DRAFT
    for path in sorted(root.rglob("*.json")):
        name = path.relative_to(root).as_posix()
        yield _outcome(name, json.loads(path.read_text(encoding="utf-8")), body_schema)


def _outcome(file: str, groups: list[dict[str, Any]], body_schema: Any) -> Outcome:
    passed, differed, examples = 0, Counter[str](), dict[str, str]()
    for group in groups:
        schema = group["schema"]
        if isinstance(schema, dict) and schema.get("$schema") == DIALECT:
            schema = {key: value for key, value in schema.items() if key != "$schema"}
        try:
            made = body_schema(schema, "", formats=file.startswith("optional/format/"))
        except ParameterError as refusal:
            kind = next((known for _, known in EXPECTED if known in refusal.message), refusal.message)
            differed[kind] += 1
            examples.setdefault(kind, group["description"])
            continue
        for case in group["tests"]:
            if (not made.violations(case["data"], 1)) == case["valid"]:
                passed += 1
            else:
                differed[DIFFERS] += 1
                examples.setdefault(DIFFERS, f"{group['description']}: {case['description']}")
    return Outcome(file, passed, differed, examples)


def main(arguments: list[str] | None = None) -> int:
    """Run the suite and print a table; returns 1 when something is not as `EXPECTED` says."""
    parser = argparse.ArgumentParser(prog="json_schema", description=__doc__)
    parser.add_argument("suite", type=Path, help="directory of the suite, which holds tests/")
    outcomes = list(run(parser.parse_args(arguments).suite))
    surprises, seen = [], set()
    print("| file | as expected | differs on purpose |\n|---|---|---|")
    for outcome in outcomes:
        notes = []
        for kind, count in sorted(outcome.differed.items()):
            seen.add((outcome.file, kind))
            expected, reason = EXPECTED.get((outcome.file, kind), (0, ""))
            notes.append(f"{count}: {reason or kind}")
            if count != expected:
                surprises.append(f"{outcome.file}: {kind}: {count}, not {expected} ({outcome.examples[kind]})")
        print(f"| {outcome.file} | {outcome.passed} | {'; '.join(notes)} |")
    surprises += [
        f"{file}: {kind}: expected, and did not happen" for file, kind in EXPECTED if (file, kind) not in seen
    ]
    print(f"\n{sum(outcome.passed for outcome in outcomes)} cases as the suite has them")
    for surprise in surprises:
        print(surprise, file=sys.stderr)
    if not outcomes:
        print("no case found: is this the directory that holds tests/?", file=sys.stderr)
    return int(bool(surprises) or not outcomes)


if __name__ == "__main__":
    sys.exit(main())
