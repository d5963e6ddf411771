"""Checks an image against a key and a reviewed list: signature, provenance, SBOM, every policy (R-48).

A separate module because it decides what counts as verified. Everything wrong is told at once.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policy_builder.attest import referrers
from policy_builder.attest.contents import Documents, content_findings, python_of, read_documents
from policy_builder.attest.envelopes import CYCLONEDX, PROVENANCE, opened, signed_digest, vouches_for
from policy_builder.attest.image_store import Image, Store, images, unpack
from policy_builder.attest.keys import PublicKey
from policy_builder.attest.referrers import Content
from policy_builder.package.bytecode import Interpreter
from policy_builder.package.registry import Repository

_LINE = re.compile(r"(?P<name>\S+)[ \t@]+(?P<version>v\S+)[ \t]+(?P<digest>sha256:[0-9a-f]{64})", re.ASCII)


class ReviewedError(Exception):
    """A file is no list of reviewed policies."""


@dataclass(frozen=True, slots=True)
class TrustedPython:
    """A Python that this machine trusts; `version` is that of its Debian package."""

    interpreter: Interpreter
    version: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an image is held against. Without `keys` neither signature nor attestations are asked for.

    `reviewed` are digests by `name version`; None asks for no list. `builder` and `source`, where given, are what its
    provenance must name. `python` compiles the modules of images anew; without it bytecode is not looked at.
    """

    keys: tuple[PublicKey, ...] = ()
    reviewed: Mapping[str, str] | None = None
    builder: str = ""
    source: str = ""
    python: TrustedPython | None = None


@dataclass(slots=True)
class Verdict:
    """What was found of one image or index: `findings` refuse it, `notes` say what was not looked at."""

    digest: str
    platform: str
    facts: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {
            "digest": self.digest,
            "platform": self.platform,
            "facts": self.facts,
            "findings": self.findings,
            "notes": self.notes,
        }


def verify(
    store: Store, digest: str, wanted: Wanted, scratch: Path, registry: Repository | None = None
) -> list[Verdict]:
    """Return a verdict on an image, or on an index and each image in it.

    `registry` is where signatures and attestations are looked for. Raises ImageError and PushError.
    """
    verdicts = []
    members = images(store, digest)
    if digest not in [image.digest for image in members]:
        verdict = Verdict(digest, "index")
        if wanted.keys and registry is not None:
            _check_signature(verdict, _attached(registry, digest), wanted.keys)
        verdicts.append(verdict)
    for number, image in enumerate(members):
        root = scratch / f"verified{number}"
        root.mkdir()
        listing = unpack(store, image, root)
        documents = read_documents(root)
        verdict = Verdict(image.digest, image.platform)
        interpreter = _interpreter(wanted.python, documents, verdict)
        verdict.findings += content_findings(root, listing, image.labels, documents, interpreter)
        components = len(documents.sbom.get("components", ()))
        verdict.facts.append(f"{len(documents.registry)} policies, {components} components in the SBOM")
        if wanted.reviewed is not None:
            _check_reviewed(verdict, documents, wanted.reviewed)
        if wanted.keys and registry is not None:
            found = _attached(registry, image.digest)
            _check_signature(verdict, found, wanted.keys)
            _check_attestations(verdict, found, image, documents, wanted)
        verdicts.append(verdict)
    return verdicts


def _interpreter(python: TrustedPython | None, documents: Documents, verdict: Verdict) -> Interpreter | None:
    """Return what compiles the image's modules; without it, or with another version, bytecode is not looked at."""
    version = python_of(documents)
    if python is not None and python.version == version:
        return python.interpreter
    at_hand = f"the lock has {python.version}" if python is not None else "no Python of the lock is at hand"
    verdict.notes.append(f"bytecode was not compared with its source: the image has Python {version}, {at_hand}")
    return None


def read_reviewed(path: Path) -> dict[str, str]:
    """Return the digests of a reviewed list by `name version`.

    It is a `registry.json`, a `build-info.json`, or text with a line `NAME VERSION sha256:…` for each policy. Raises
    ReviewedError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not text"
        raise ReviewedError(f"{path} cannot be read: {reason}") from None
    try:
        document = json.loads(text)
        listed = document["policies"] if isinstance(document, dict) else document
        return {f"{one['name']} {one['version']}": str(one["digest"]) for one in listed}
    except (ValueError, RecursionError):
        pass
    except (KeyError, TypeError):
        raise ReviewedError(f"{path} has policies without name, version or digest") from None
    found = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ReviewedError(f"{path}:{number}: expected NAME VERSION sha256:DIGEST")
        found[f"{match['name']} {match['version']}"] = match["digest"]
    return found


def _attached(registry: Repository, digest: str) -> dict[str, list[Content]]:
    """Return what is attached to an image, by artifact type; of what refers to another image nothing counts."""
    found: dict[str, list[Content]] = {}
    for manifest in referrers.referrers(registry, digest):
        subject = manifest.get("subject")
        if isinstance(subject, dict) and subject.get("digest") != digest:
            continue
        for content in referrers.contents(registry, manifest):
            found.setdefault(content.media_type, []).append(content)
    return found


def _check_signature(verdict: Verdict, found: Mapping[str, list[Content]], keys: Sequence[PublicKey]) -> None:
    payloads = found.get(referrers.PAYLOAD_LAYER, [])
    for content in payloads:
        try:
            signature = base64.b64decode(content.annotations.get(referrers.SIGNATURE_KEY, ""), validate=True)
        except (binascii.Error, ValueError):
            continue
        if signed_digest(content.data) == verdict.digest and any(key.verifies(signature, content.data) for key in keys):
            verdict.facts.append("signed by the given key")
            return
    others = f"; {len(payloads)} signatures are by other keys, or of another image" if payloads else "; it has none"
    verdict.findings.append(f"no signature of {verdict.digest} by the given key{others}")


def _check_attestations(
    verdict: Verdict,
    found: Mapping[str, list[Content]],
    image: Image,
    documents: Documents,
    wanted: Wanted,
) -> None:
    signed = [opened(content.data, wanted.keys) for content in found.get(referrers.ENVELOPE_LAYER, [])]
    statements = [one for one in signed if one is not None and vouches_for(one, image.digest)]
    sboms = [one["predicate"] for one in statements if one.get("predicateType") == CYCLONEDX]
    if not sboms:
        verdict.findings.append("no SBOM of this image is signed by the given key")
    elif documents.sbom not in sboms:
        verdict.findings.append("the SBOM that is signed is not the one in the image")
    else:
        verdict.facts.append("SBOM signed by the given key, the same as in the image")
    provenances = [one["predicate"] for one in statements if one.get("predicateType") == PROVENANCE]
    if not provenances:
        verdict.findings.append("no provenance of this image is signed by the given key")
        return
    fitting = [one for one in provenances if _names(one, wanted)]
    if not fitting:
        shown = ", ".join(f"built by {_builder(one)} of {_source(one) or 'an unknown source'}" for one in provenances)
        verdict.findings.append(f"no provenance names the builder and the source that were asked for; it says: {shown}")
        return
    verdict.facts.append(f"built by {_builder(fitting[-1])} of {_source(fitting[-1]) or 'an unknown source'}")
    listed = _parameters(fitting[-1]).get("policies")
    policies = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    stated = {f"{one.get('name')} {one.get('version')}": one.get("digest") for one in policies}
    if stated != documents.policies():
        verdict.findings.append("the provenance names other policies than the image has")


def _check_reviewed(verdict: Verdict, documents: Documents, reviewed: Mapping[str, str]) -> None:
    for name, digest in sorted(documents.policies().items()):
        if name not in reviewed:
            verdict.findings.append(f"policy {name} is not on the reviewed list")
        elif reviewed[name] != digest:
            verdict.findings.append(f"policy {name} has {digest}, the reviewed list has {reviewed[name]}")


def _names(predicate: Any, wanted: Wanted) -> bool:
    builder = not wanted.builder or _builder(predicate) == wanted.builder
    return builder and (not wanted.source or wanted.source in (_source(predicate), _uri(predicate)))


def _builder(predicate: Any) -> str:
    try:
        return str(predicate["runDetails"]["builder"]["id"])
    except (KeyError, TypeError):
        return ""


def _parameters(predicate: Any) -> dict[str, Any]:
    try:
        found = predicate["buildDefinition"]["externalParameters"]
    except (KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _uri(predicate: Any) -> str:
    source = _parameters(predicate).get("source")
    return str(source.get("uri") or "") if isinstance(source, dict) else ""


def _source(predicate: Any) -> str:
    """Return source and revision as `URI@REVISION`; the revision alone where no URI is known."""
    source = _parameters(predicate).get("source")
    if not isinstance(source, dict) or not source.get("revision"):
        return _uri(predicate)
    modified = "-modified" if source.get("modified") else ""
    return f"{source.get('uri') or ''}@{source['revision']}{modified}"
