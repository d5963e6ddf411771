"""The image's bill of materials in CycloneDX 1.6 JSON, with the same bytes for the same content (R-44).

A separate module because the format and its library are used nowhere else. It has what the minimum elements of NTIA ask
of each component (supplier, name, version, identifier, dependencies, author of the data), except the time: who signs it
says when.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from email.utils import parseaddr
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalContact, OrganizationalEntity
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from license_expression import ExpressionError, get_spdx_licensing
from packageurl import PackageURL

import policy_builder
from policy_builder.describe.debian_licences import spdx_id
from policy_builder.describe.generate import LICENCE, TITLE
from policy_builder.describe.nested_sboms import nested_components
from policy_builder.describe.purls import debian_purl, pypi_purl
from policy_builder.discover.debian import DebianPackage
from policy_builder.discover.digests import files_digest
from policy_builder.discover.distributions import Distribution
from policy_builder.discover.policy_source import PolicySource
from policy_builder.recipe import is_stripped
from policy_builder.stripping import stripped
from policy_builder.validate.facts import Facts

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:policy-engine:sbom")
_SPDX = get_spdx_licensing()
_UNKNOWN = "not stated"


def sbom(facts: Facts) -> str:
    """Return the bill of materials: Debian packages, distributions, libraries of the repository, policies, engine."""
    bom = Bom()
    engine = _engine(facts)
    bom.metadata.component = engine
    bom.metadata.authors.add(OrganizationalContact(name="policy-builder"))
    tool = Component(name="policy-builder", version=policy_builder.__version__, type=ComponentType.APPLICATION)
    bom.metadata.tools.components.add(tool)
    additional = facts.resolution.additional()
    system = _system(facts)
    base = [system, *(_debian(package, facts) for package in facts.debian.packages)]
    distributions = {**facts.resolution.engine.distributions, **additional.distributions}
    installed = {name: _distribution(one) for name, one in sorted(distributions.items())}
    libraries = {
        library.name: Component(
            name=library.name,
            bom_ref=f"library:{library.name}",
            supplier=OrganizationalEntity(name="the repository of the policies"),
            hashes=_hashes(files_digest(library.files)),
        )
        for library in additional.libraries
    }
    policies: list[Component] = []
    digests = facts.digests()
    for policy in facts.policies:
        needs = facts.resolution.policies[str(policy)]
        component = _policy(policy, digests[str(policy)])
        policies.append(component)
        depends = [installed[name] for name in needs.distributions] + [libraries[one.name] for one in needs.libraries]
        bom.register_dependency(component, depends)
    for component in [*base, *installed.values(), *libraries.values(), *policies]:
        bom.components.add(component)
    engines = [installed[name] for name in facts.resolution.engine.distributions]
    bom.register_dependency(engine, [*base, *engines, *policies])
    return _rendered(bom)


def _engine(facts: Facts) -> Component:
    return Component(
        name=TITLE,
        version=facts.engine_version,
        type=ComponentType.APPLICATION,
        bom_ref="engine",
        supplier=OrganizationalEntity(name=TITLE),
        licenses=_licences(LICENCE),
        hashes=_hashes(files_digest(facts.engine_files)),
    )


def _system(facts: Facts) -> Component:
    """Return the operating system, by which scanners choose the advisories that count."""
    return Component(
        name="debian",
        version=facts.debian.release,
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref=f"os:debian@{facts.debian.release}",
        description=f"Debian GNU/Linux {facts.debian.release} ({facts.debian.suite})",
        supplier=OrganizationalEntity(name="Debian"),
    )


def _debian(package: DebianPackage, facts: Facts) -> Component:
    purl = debian_purl(package, facts.debian)
    name, address = parseaddr(package.maintainer)
    contacts = [OrganizationalContact(name=name or None, email=address or None)] if package.maintainer else []
    return Component(
        name=package.name,
        version=package.version,
        purl=PackageURL.from_string(purl),
        bom_ref=purl,
        supplier=OrganizationalEntity(name="Debian", contacts=contacts),
        licenses=[_licence_of_debian(one) for one in package.licences],
        hashes=_hashes(package.sha256),
        properties=[Property(name="policy-engine:source", value=package.source or package.name)],
    )


def _distribution(one: Distribution) -> Component:
    purl = pypi_purl(one)
    shrunk = {name: stripped(path.read_bytes()) for name, path in one.files.items() if is_stripped(name)}
    changed = [name for name, content in shrunk.items() if len(content) != one.files[name].stat().st_size]
    properties = [Property(name="policy-engine:installed-files", value=files_digest(one.files, shrunk))]
    properties += [Property(name="policy-engine:stripped", value=name) for name in sorted(changed)]
    return Component(
        name=one.shown_name,
        version=one.version,
        purl=PackageURL.from_string(purl),
        bom_ref=purl,
        supplier=OrganizationalEntity(name=one.author or _UNKNOWN),
        licenses=_licences(one.licence),
        properties=properties,
        components=nested_components(one, purl),
    )


def _policy(policy: PolicySource, digest: str) -> Component:
    properties = [Property(name="policy-engine:kind", value="policy")]
    package = policy.package
    if package is not None:
        properties.append(Property(name="policy-engine:wheel", value=f"{package.name}=={package.version}"))
        if package.wheel:
            properties.append(Property(name="policy-engine:wheel-sha256", value=package.wheel))
    return Component(
        name=policy.name,
        version=policy.version,
        description=policy.manifest.description if policy.manifest else None,
        bom_ref=f"policy:{policy.name}@{policy.version}",
        supplier=OrganizationalEntity(name=(package.author if package else "") or "the repository of the policies"),
        licenses=_licences(package.licence if package else ""),
        hashes=_hashes(digest),
        properties=properties,
    )


def _rendered(bom: Bom) -> str:
    """Return the document without its time, and with a serial number that is made from its content."""
    document: dict[str, Any] = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
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


def _licence_of_debian(name: str) -> DisjunctiveLicense:
    known = spdx_id(name)
    return DisjunctiveLicense(id=known) if known is not None else DisjunctiveLicense(name=name)


def _hashes(digest: str) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))]
