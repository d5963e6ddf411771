"""Bills of materials that wheels bring themselves (PEP 770): what was compiled into them, such as Rust crates.

A separate module because these are documents of strangers: what cannot be read, or is no CycloneDX, is passed over, and
only the parts that a scanner looks for are taken.
"""

from __future__ import annotations

import json
import re

from cyclonedx.model.component import Component, ComponentType
from packageurl import PackageURL

from policy_builder.discover.distributions import Distribution

MAX_BYTES = 16 << 20
MOST = 2000
_FILE = re.compile(r"[^/]+\.dist-info/sboms/.+\.json")


def nested_components(distribution: Distribution, owner: str) -> list[Component]:
    """Return the components that the SBOMs in a distribution list, each package once; `owner` is its own purl."""
    found: dict[str, Component] = {}
    for name, path in sorted(distribution.files.items()):
        if not _FILE.fullmatch(name) or path.stat().st_size > MAX_BYTES:
            continue
        try:
            document = json.loads(path.read_bytes())
            listed = document["components"] if document.get("bomFormat") == "CycloneDX" else []
        except (ValueError, RecursionError, KeyError, AttributeError):
            continue
        for entry in listed[:MOST] if isinstance(listed, list) else ():
            purl = _purl(entry)
            if purl is not None and str(purl) != owner:
                found.setdefault(str(purl), _component(purl, owner))
    return list(found.values())


def _purl(entry: object) -> PackageURL | None:
    if not isinstance(entry, dict):
        return None
    try:
        return PackageURL.from_string(str(entry.get("purl")))
    except ValueError:
        return None


def _component(purl: PackageURL, owner: str) -> Component:
    return Component(
        name=purl.name, version=purl.version, purl=purl, type=ComponentType.LIBRARY, bom_ref=f"{owner}#{purl}"
    )
