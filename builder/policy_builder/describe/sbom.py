"""The image's bill of materials in CycloneDX 1.6 JSON, with the same bytes for the same content (R-44).

A separate module because the format and its library are used nowhere else.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from license_expression import ExpressionError, get_spdx_licensing
from packageurl import PackageURL

from policy_builder.describe.generate import LICENCE, TITLE
from policy_builder.discover.digests import files_digest
from policy_builder.validate.facts import Facts

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:policy-engine:sbom")
_SPDX = get_spdx_licensing()


def sbom(facts: Facts) -> str:
    """Return the bill of materials: Debian packages, distributions, libraries of the repository, policies, engine."""
    engine = Component(
        name=TITLE,
        version=facts.engine_version,
        type=ComponentType.APPLICATION,
        bom_ref="engine",
        licenses=_licences(LICENCE),
        hashes=_hashes(files_digest(facts.engine_files)),
    )
    bom = Bom()
    bom.metadata.component = engine
    additional = facts.resolution.additional()
    components: dict[str, Component] = {}
    for package in facts.debian.packages:
        purl = PackageURL(
            "deb", "debian", package.name, package.version, {"arch": package.architecture, "distro": facts.debian.suite}
        )
        components[package.name] = Component(
            name=package.name, version=package.version, purl=purl, bom_ref=str(purl), hashes=_hashes(package.sha256)
        )
    base = list(components.values())
    distributions = {**facts.resolution.engine.distributions, **additional.distributions}
    installed: dict[str, Component] = {}
    for name, one in sorted(distributions.items()):
        purl = PackageURL("pypi", None, name, one.version)
        installed[name] = Component(
            name=one.shown_name,
            version=one.version,
            purl=purl,
            bom_ref=str(purl),
            licenses=_licences(one.licence),
            properties=[Property(name="policy-engine:installed-files", value=files_digest(one.files))],
        )
    libraries = {
        library.name: Component(
            name=library.name, bom_ref=f"library:{library.name}", hashes=_hashes(files_digest(library.files))
        )
        for library in additional.libraries
    }
    policies: list[Component] = []
    digests = facts.digests()
    for policy in facts.policies:
        needs = facts.resolution.policies[str(policy)]
        component = Component(
            name=policy.name,
            version=policy.version,
            description=policy.manifest.description if policy.manifest else None,
            bom_ref=f"policy:{policy.name}@{policy.version}",
            hashes=_hashes(digests[str(policy)]),
            properties=[Property(name="policy-engine:kind", value="policy")],
        )
        policies.append(component)
        depends = [installed[name] for name in needs.distributions] + [libraries[one.name] for one in needs.libraries]
        bom.register_dependency(component, depends)
    for component in [*base, *installed.values(), *libraries.values(), *policies]:
        bom.components.add(component)
    engines = [installed[name] for name in facts.resolution.engine.distributions]
    bom.register_dependency(engine, [*base, *engines, *policies])
    return _rendered(bom)


def _rendered(bom: Bom) -> str:
    """Return the document without its time, and with a serial number that is made from its content."""
    document = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    document["metadata"].pop("timestamp", None)
    document.pop("serialNumber", None)
    content = json.dumps(document, sort_keys=True)
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(_NAMESPACE, content)}"
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _licences(stated: str) -> Iterable[LicenseExpression | DisjunctiveLicense]:
    """Return the stated licence as an SPDX expression where it is one, by its name otherwise."""
    if not stated:
        return []
    try:
        _SPDX.parse(stated, validate=True, strict=True)
    except ExpressionError:
        return [DisjunctiveLicense(name=stated)]
    return [LicenseExpression(stated)]


def _hashes(digest: str) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))]
