"""What the builder writes about an image: the engine's registry, labels, build information, licences (R-40, R-44).

A separate module because these documents say the same things to different readers, from one set of facts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from policy_builder.discover.digests import files_digest
from policy_builder.recipe import PYTHON, policy_directory
from policy_builder.validate.facts import Facts

TITLE = "policy-engine"
LICENCE = "Apache-2.0"


def registry(facts: Facts) -> str:
    """Return registry.json, which `policy_engine.worker.policies.loader` reads."""
    digests = facts.digests()
    return _json(
        [
            {
                "name": policy.name,
                "version": policy.version,
                "entrypoint": policy.manifest.entrypoint,
                "directory": policy_directory(policy.name, policy.version),
                "digest": digests[str(policy)],
            }
            for policy in facts.policies
            if policy.manifest is not None
        ]
    )


def labels(facts: Facts) -> dict[str, str]:
    """Return the image's labels: the standard ones, the engine's version, and every policy with its digest."""
    digests = facts.digests()
    return {
        "org.opencontainers.image.title": TITLE,
        "org.opencontainers.image.description": "Envoy ext_proc policy engine",
        "org.opencontainers.image.licenses": LICENCE,
        "org.opencontainers.image.version": facts.engine_version,
        "policy-engine.version": facts.engine_version,
        **{f"policy-engine.policy.{policy.name}.{policy.version}": digests[str(policy)] for policy in facts.policies},
        **{
            f"policy-engine.package.{policy.name}.{policy.version}": f"{policy.package.name}=={policy.package.version}"
            for policy in facts.policies
            if policy.package is not None
        },
    }


def build_info(facts: Facts) -> str:
    """Return build-info.json: engine, policies with digests, and every dependency with who needs it."""
    digests = facts.digests()
    additional = facts.resolution.additional()
    distributions = {**facts.resolution.engine.distributions, **additional.distributions}
    return _json(
        {
            "engine": {"version": facts.engine_version, "digest": files_digest(facts.engine_files)},
            "python": PYTHON,
            "policies": [
                {
                    "name": policy.name,
                    "version": policy.version,
                    "description": policy.manifest.description if policy.manifest else "",
                    "digest": digests[str(policy)],
                    "requirements": sorted(str(one) for one in policy.requirements.pins.values()),
                }
                | ({"package": policy.package.as_document()} if policy.package is not None else {})
                for policy in facts.policies
            ],
            "dependencies": [
                {
                    "name": one.shown_name,
                    "version": one.version,
                    "licence": one.licence or "not stated",
                    "required_by": list(facts.resolution.required_by(name)),
                }
                for name, one in sorted(distributions.items())
            ],
            "libraries": [
                {"name": library.name, "digest": files_digest(library.files)} for library in additional.libraries
            ],
            "debian": {
                "suite": facts.debian.suite,
                "packages": {package.name: package.version for package in facts.debian.packages},
            },
        }
    )


def licences(facts: Facts) -> str:
    """Return a table of every part of the image and its licence, for people."""
    additional = facts.resolution.additional()
    distributions = {**facts.resolution.engine.distributions, **additional.distributions}
    rows = [(TITLE, facts.engine_version, LICENCE)]
    rows += [
        (f"{policy.package.name} ({policy})", policy.package.version, policy.package.licence or "not stated")
        for policy in facts.policies
        if policy.package is not None
    ]
    rows += [(one.shown_name, one.version, one.licence or "not stated") for _, one in sorted(distributions.items())]
    rows += [(one.name, one.version, f"/usr/share/doc/{one.name}/copyright") for one in facts.debian.packages]
    return _table(rows)


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "".join(f"{name:<{widths[0]}}  {version:<{widths[1]}}  {licence}\n" for name, version, licence in rows)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
