"""Signs an image in a registry and attaches what vouches for it: signature, SLSA provenance, SBOM (R-48).

A separate module because all that is said comes from the image itself, read back from the registry: who built it, with
Bazel or without, makes no difference, and what is signed is what was stored.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import policy_builder
from policy_builder.attest import referrers
from policy_builder.attest.contents import Documents, read_documents
from policy_builder.attest.envelopes import (
    CYCLONEDX,
    PAYLOAD_TYPE,
    PROVENANCE,
    Subject,
    envelope,
    image_payload,
    statement,
)
from policy_builder.attest.image_store import Image, ImageError, Store, images, unpack
from policy_builder.attest.keys import Signer
from policy_builder.attest.referrers import Content, attach
from policy_builder.package.oci_layout import INDEX_TYPE
from policy_builder.package.registry import Repository
from policy_builder.package.source_revision import UNKNOWN, Source
from policy_builder.recipe import DOCUMENTS, POLICIES

BUILD_TYPE = "urn:policy-engine:build:image:v1"
BUILDER_ID = "urn:policy-engine:policy-builder"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who built an image, of what: `builder` is a URI, `materials` are resource descriptors of in-toto."""

    source: Source = UNKNOWN
    builder: str = BUILDER_ID
    materials: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Vouched:
    """What was attached to one image or index: digests by kind."""

    digest: str
    attached: Mapping[str, str]


def vouch(
    registry: Repository, subject: Subject, *, store: Store, signer: Signer | None, origin: Origin, scratch: Path
) -> list[Vouched]:
    """Attach SBOM and provenance, and with `signer` its signatures of both and of the image, to it or all of an index.

    `store` has the image's parts. Raises PushError, ImageError and KeyFileError.
    """
    repository, digest = subject.repository, subject.digest
    found = []
    members = images(store, digest)
    for number, image in enumerate(members):
        root = scratch / f"image{number}"
        root.mkdir()
        unpack(store, image, root)
        member = Subject(repository, image.digest)
        found.append(_vouch_for_image(registry, member, image, root=root, signer=signer, origin=origin))
    if digest not in [image.digest for image in members]:
        content = store.manifest(digest)
        descriptor = {"mediaType": INDEX_TYPE, "digest": digest, "size": len(content)}
        attached = {}
        if signer is not None:
            signature = _signature(subject, signer, origin)
            notes = origin.source.annotations()
            attached["signature"] = attach(registry, descriptor, referrers.SIGNATURE, [signature], notes)
        found.append(Vouched(digest, attached))
    return found


def attach_signature(
    registry: Repository, descriptor: Mapping[str, Any], payload: bytes, signature: str, more: Mapping[str, str]
) -> str:
    """Attach a signature (base64) of `payload` made elsewhere; `more` are annotations such as its certificate's."""
    notes = {referrers.SIGNATURE_KEY: signature, **more}
    return attach(registry, descriptor, referrers.SIGNATURE, [Content(referrers.PAYLOAD_LAYER, payload, notes)], {})


def provenance(documents: Documents, image: Image, origin: Origin) -> dict[str, Any]:
    """Return the SLSA provenance (v1) of an image: what was asked for, of what it was made, who did it."""
    policies = [
        {"name": one.get("name"), "version": one.get("version"), "digest": one.get("digest")}
        for one in documents.registry
    ]
    source = origin.source
    materials: list[Mapping[str, Any]] = []
    if source.revision:
        uri = f"git+{source.uri}" if source.uri else "git"
        materials.append({"uri": uri, "digest": {"gitCommit": source.revision}})
    materials += origin.materials or _materials(documents.sbom)
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "platform": image.platform,
                "policies": policies,
                "source": {"uri": source.uri, "revision": source.revision, "modified": source.modified},
            },
            "internalParameters": {"engine": documents.information.get("engine")},
            "resolvedDependencies": materials,
        },
        "runDetails": {
            "builder": {"id": origin.builder, "version": {"policy-builder": policy_builder.__version__}},
            "metadata": {"invocationId": image.digest},
        },
    }


def _vouch_for_image(
    registry: Repository, subject: Subject, image: Image, *, root: Path, signer: Signer | None, origin: Origin
) -> Vouched:
    documents = read_documents(root)
    if documents.findings:
        raise ImageError(f"{image.digest} is no image of this builder: {documents.findings[0]}")
    sbom = (root / POLICIES.lstrip("/") / DOCUMENTS["sbom"]).read_bytes()
    notes = origin.source.annotations()

    def attached(kind: str, contents: Sequence[Content]) -> str:
        return attach(registry, image.descriptor, kind, contents, notes)

    found = {"sbom": attached(referrers.SBOM, [Content(referrers.SBOM, sbom)])}
    predicates = {PROVENANCE: provenance(documents, image, origin), CYCLONEDX: json.loads(sbom)}
    if signer is None:
        unsigned = json.dumps(statement(subject, PROVENANCE, predicates[PROVENANCE])).encode()
        found["provenance"] = attached(PAYLOAD_TYPE, [Content(PAYLOAD_TYPE, unsigned)])
        return Vouched(image.digest, found)
    envelopes = [
        Content(
            referrers.ENVELOPE_LAYER,
            envelope(statement(subject, kind, predicate), signer),
            {"predicateType": kind, referrers.SIGNATURE_KEY: ""},
        )
        for kind, predicate in predicates.items()
    ]
    found["attestations"] = attached(referrers.ATTESTATION, envelopes)
    found["signature"] = attached(referrers.SIGNATURE, [_signature(subject, signer, origin)])
    return Vouched(image.digest, found)


def _signature(subject: Subject, signer: Signer, origin: Origin) -> Content:
    payload = image_payload(subject, origin.source.annotations())
    signature = base64.b64encode(signer.sign(payload)).decode()
    return Content(referrers.PAYLOAD_LAYER, payload, {referrers.SIGNATURE_KEY: signature})


def _materials(sbom: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the SBOM lists as resource descriptors, with the digests that it has."""
    found = []
    for component in sbom.get("components", ()):
        purl = component.get("purl")
        if not purl:
            continue
        hashes = {one["alg"].replace("-", "").lower(): one["content"] for one in component.get("hashes", ())}
        found.append({"uri": purl} | ({"digest": hashes} if hashes else {}))
    return found
