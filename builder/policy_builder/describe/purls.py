"""Package URLs (purl) of what an image is made from: the SBOM and the provenance must name one thing alike."""

from __future__ import annotations

from packageurl import PackageURL

from policy_builder.discover.debian import DebianLock, DebianPackage
from policy_builder.discover.distributions import Distribution


def debian_purl(package: DebianPackage, lock: DebianLock) -> str:
    """Return the purl of a Debian package; `upstream` is its source package, which Debian's advisories are about."""
    qualifiers = {"arch": package.architecture, "distro": f"debian-{lock.release}"}
    name, _, version = package.source.partition(" ")
    if name:
        qualifiers["upstream"] = f"{name}@{version.strip('()')}" if version else name
    return str(PackageURL("deb", "debian", package.name, package.version, qualifiers))


def pypi_purl(distribution: Distribution) -> str:
    """Return the purl of a distribution from PyPI."""
    return str(PackageURL("pypi", None, distribution.name, distribution.version))
