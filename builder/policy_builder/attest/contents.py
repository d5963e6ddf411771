"""Holds what lies in an image against the documents in it: policies, engine, libraries, distributions, Debian packages.

A separate module because it needs no key and no registry: whoever unpacked an image can ask it. What the documents
claim is computed anew of the files.
"""

from __future__ import annotations

import csv
import email.parser
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from policy_builder.attest.image_store import Entry
from policy_builder.discover.digests import files_digest
from policy_builder.package.bytecode import Interpreter
from policy_builder.recipe import DOCUMENTS, MODULES, POLICIES, PYTHON, SITE_PACKAGES
from policy_engine.worker.policies.integrity import directory_digest

_POLICIES = POLICIES.lstrip("/")
_SITE = SITE_PACKAGES.lstrip("/")
_MODULES = tuple(f"{directory.lstrip('/')}/" for directory in MODULES)
_ENGINE = "policy_engine"
PYTHON_PACKAGE = f"python{PYTHON}-minimal"
MOST_SHOWN = 10
"""Bytecode files that are named."""

_STATUS = "var/lib/dpkg/status.d"
INSTALLED_FILES = "policy-engine:installed-files"


@dataclass(frozen=True, slots=True)
class Documents:
    """What an image says of itself. `findings` are documents that cannot be read."""

    registry: tuple[Mapping[str, Any], ...]
    information: Mapping[str, Any]
    sbom: Mapping[str, Any]
    findings: tuple[str, ...] = field(default=())

    def policies(self) -> dict[str, str]:
        """Return the digest of every policy, as the registry has it, by `name version`."""
        return {f"{one.get('name')} {one.get('version')}": str(one.get("digest")) for one in self.registry}


def read_documents(root: Path) -> Documents:
    """Read the documents of the image that is unpacked in `root`."""
    findings: list[str] = []

    def read(key: str, kind: type) -> Any:
        path = root / _POLICIES / DOCUMENTS[key]
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            document = None
        if not isinstance(document, kind):
            findings.append(f"{POLICIES}/{DOCUMENTS[key]} is missing, or cannot be read")
            return kind()
        return document

    registry = tuple(one for one in read("registry", list) if isinstance(one, dict))
    information, sbom = read("build_info", dict), read("sbom", dict)
    return Documents(registry, information, sbom, tuple(findings))


def content_findings(
    root: Path,
    listing: Mapping[str, Entry],
    labels: Mapping[str, str],
    documents: Documents,
    interpreter: Interpreter | None = None,
) -> list[str]:
    """Return everything in the image that its own documents do not account for.

    `interpreter` is a Python that is trusted, of the same version as the image's: it compiles every module anew.
    """
    components = [one for one in documents.sbom.get("components", ()) if isinstance(one, dict)]
    return [
        *documents.findings,
        *_irregular(listing),
        *_policy_findings(root, listing, labels, documents, components),
        *_engine_findings(root, documents),
        *_distribution_findings(root, listing, documents, components),
        *_debian_findings(listing, components),
        *(_bytecode_findings(root, listing, interpreter) if interpreter is not None else ()),
    ]


def python_of(documents: Documents) -> str:
    """Return the version of the Debian package with the image's Python; empty where it is not said."""
    debian = documents.information.get("debian")
    packages = debian.get("packages") if isinstance(debian, dict) else None
    return str(packages.get(PYTHON_PACKAGE, "")) if isinstance(packages, dict) else ""


def _irregular(listing: Mapping[str, Entry]) -> Iterator[str]:
    for path, entry in sorted(listing.items()):
        if path.startswith((f"{_POLICIES}/", f"{_SITE}/")) and entry.kind not in ("file", "directory"):
            yield f"/{path} is a {entry.kind}; code in an image is in regular files"
        elif entry.kind in ("whiteout", "special file"):
            yield f"/{path} is a {entry.kind}, which the builder never writes"


def _policy_findings(
    root: Path,
    listing: Mapping[str, Entry],
    labels: Mapping[str, str],
    documents: Documents,
    components: list[dict[str, Any]],
) -> Iterator[str]:
    prefix = "policy-engine.policy."
    labelled = {key.removeprefix(prefix): value for key, value in labels.items() if key.startswith(prefix)}
    in_sbom = {
        f"{one.get('name')} {one.get('version')}": _hash(one)
        for one in components
        if str(one.get("bom-ref")).startswith("policy:")
    }
    directories = set()
    for entry in documents.registry:
        name = f"{entry.get('name')} {entry.get('version')}"
        where = str(entry.get("directory"))
        if where.startswith("/") or ".." in where.split("/"):
            yield f"policy {name} is said to lie in {where!r}"
            continue
        directories.add(where)
        digest = str(entry.get("digest"))
        actual = directory_digest(root / _POLICIES / where)
        if actual != digest:
            yield f"policy {name} is not what the registry says: its files have {actual}, the registry has {digest}"
        for place, found in (("label", labelled.pop(name.replace(" ", "."), None)), ("SBOM", in_sbom.pop(name, None))):
            if found != digest:
                yield f"policy {name}: the {place} has {found or 'nothing'}, the registry has {digest}"
    for name in sorted({*(one.replace(".", " ", 1) for one in labelled), *in_sbom}):
        yield f"policy {name} is named by a label or by the SBOM, and is not in the registry"
    known = tuple(f"{_POLICIES}/{one}/" for one in directories)
    own = {f"{_POLICIES}/{name}" for name in DOCUMENTS.values()}
    for path, item in sorted(listing.items()):
        if item.kind == "file" and path.startswith(f"{_POLICIES}/") and not path.startswith(known) and path not in own:
            yield f"/{path} belongs to no policy of the registry"


def _engine_findings(root: Path, documents: Documents) -> Iterator[str]:
    described = documents.information.get("engine")
    engine = described.get("digest") if isinstance(described, dict) else None
    metadata = documents.sbom.get("metadata", {})
    in_sbom = _hash(metadata.get("component", {})) if isinstance(metadata, dict) else None
    libraries = documents.information.get("libraries")
    parts = [("the engine", _ENGINE, engine)]
    parts += [
        (f"library {one.get('name')}", str(one.get("name")), one.get("digest"))
        for one in (libraries if isinstance(libraries, list) else ())
        if isinstance(one, dict) and str(one.get("name")).isidentifier()
    ]
    for title, name, digest in parts:
        actual = directory_digest(root / _SITE / name, f"{name}/")
        if actual != digest:
            yield f"{title} is not what {DOCUMENTS['build_info']} says: its files have {actual}, not {digest}"
    if in_sbom != engine:
        yield f"the engine: the SBOM has {in_sbom or 'nothing'}, {DOCUMENTS['build_info']} has {engine}"


def _distribution_findings(
    root: Path, listing: Mapping[str, Entry], documents: Documents, components: list[dict[str, Any]]
) -> Iterator[str]:
    """Compare what is installed with the SBOM: names, versions, every file."""
    wanted = {str(one.get("purl")): one for one in components if str(one.get("purl")).startswith("pkg:pypi/")}
    site = {
        path.removeprefix(f"{_SITE}/"): root / path
        for path, entry in listing.items()
        if path.startswith(f"{_SITE}/") and entry.kind == "file" and "/__pycache__/" not in path
    }
    libraries = documents.information.get("libraries")
    named = [str(one.get("name")) for one in libraries if isinstance(one, dict)] if isinstance(libraries, list) else []
    owned = {name for name in site if name.partition("/")[0] in (_ENGINE, *named)}
    for metadata in sorted(name for name in site if name.endswith(".dist-info/METADATA") and name.count("/") == 1):
        directory = metadata.partition("/")[0]
        stated = email.parser.BytesParser().parsebytes(site[metadata].read_bytes(), headersonly=True)
        name, version = canonicalize_name(str(stated["Name"])), str(stated["Version"])
        files = {one: site[one] for one in _recorded(site, directory)}
        owned |= files.keys()
        component = wanted.pop(f"pkg:pypi/{name}@{version}", None)
        if component is None:
            if name != canonicalize_name(_ENGINE):
                yield f"{name} {version} is installed, and the SBOM does not list it"
            continue
        properties = {
            one.get("name"): one.get("value") for one in component.get("properties", ()) if isinstance(one, dict)
        }
        actual = files_digest(files)
        stated_digest = properties.get(INSTALLED_FILES)
        if stated_digest != actual:
            yield f"{name} {version} is not what the SBOM says: its files have {actual}, the SBOM has {stated_digest}"
    for purl in sorted(wanted):
        yield f"the SBOM lists {purl}, which is not installed"
    for one in sorted(site.keys() - owned):
        yield f"{SITE_PACKAGES}/{one} belongs to nothing that the SBOM lists"


def _recorded(site: Mapping[str, Path], directory: str) -> list[str]:
    """Return the files of a distribution: those in its RECORD, and its own description."""
    record = site.get(f"{directory}/RECORD")
    text = record.read_text(encoding="utf-8", errors="replace") if record is not None else ""
    listed = {row[0] for row in csv.reader(io.StringIO(text)) if row}
    return [name for name in site if name in listed or name.startswith(f"{directory}/")]


def _debian_findings(listing: Mapping[str, Entry], components: list[dict[str, Any]]) -> Iterator[str]:
    installed = {
        path.removeprefix(f"{_STATUS}/")
        for path, entry in listing.items()
        if path.startswith(f"{_STATUS}/") and entry.kind == "file" and not path.endswith(".md5sums")
    }
    listed = {str(one.get("name")) for one in components if str(one.get("purl")).startswith("pkg:deb/")}
    for name in sorted(installed - listed):
        yield f"Debian package {name} is installed, and the SBOM does not list it"
    for name in sorted(listed - installed):
        yield f"the SBOM lists the Debian package {name}, which /{_STATUS} does not"


def _bytecode_findings(root: Path, listing: Mapping[str, Entry], interpreter: Interpreter) -> Iterator[str]:
    """Compile every module of an image anew and compare: an image's Python runs its bytecode without a look at it."""
    code = {path: one for path, one in listing.items() if one.kind == "file" and path.startswith(_MODULES)}
    expected: dict[str, str] = {}
    # Layer by layer as it was built: how objects are shared in a bytecode file depends on what is compiled beside it.
    for number in sorted({one.layer for one in code.values()}):
        sources = [path for path, one in code.items() if one.layer == number and path.endswith(".py")]
        compiled = interpreter.compile({path: (root / path).read_bytes() for path in sources})
        expected |= {path: hashlib.sha256(content).hexdigest() for path, content in compiled.items()}
    bytecode = [path for path in sorted(code) if path.endswith((".pyc", ".pyo"))]
    found = [path for path in bytecode if expected.get(path) != code[path].value]
    yield from (f"/{path} is bytecode that does not come from its source" for path in found[:MOST_SHOWN])
    if len(found) > MOST_SHOWN:
        yield f"{len(found) - MOST_SHOWN} more files of bytecode do not come from their sources"


def _hash(component: Mapping[str, Any]) -> str | None:
    hashes = component.get("hashes")
    for one in hashes if isinstance(hashes, list) else ():
        if isinstance(one, dict) and one.get("alg") == "SHA-256":
            return f"sha256:{one.get('content')}"
    return None
