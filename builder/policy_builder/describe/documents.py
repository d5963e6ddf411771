"""The documents of an image, all at once; apart, since Bazel's rule and `policy-builder` write the same ones."""

from __future__ import annotations

from policy_builder.describe.generate import build_info, licences, registry
from policy_builder.describe.sbom import sbom
from policy_builder.validate.facts import Facts


def documents(facts: Facts) -> dict[str, str]:
    """Return the files that describe an image, by the keys of the recipe's DOCUMENTS."""
    return {
        "registry": registry(facts),
        "build_info": build_info(facts),
        "sbom": sbom(facts),
        "licences": licences(facts),
    }
