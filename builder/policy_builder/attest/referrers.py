"""Attaches documents to an image in a registry, and finds them: referrers of OCI 1.1, their fallback, cosign's tags.

A separate module because registries differ here: one of OCI 1.1 lists what refers to an image, an older one has only
tags, and cosign looks for tags made from the digest in either (OCI distribution specification 1.1, "Referrers Tag
Schema"; cosign's SIGNATURE_SPEC.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policy_builder.package.oci_layout import INDEX_TYPE, MANIFEST_TYPE, canonical, digest_of
from policy_builder.package.push import put_blob, put_manifest
from policy_builder.package.registry import PushError, Repository

EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"

SIGNATURE = "application/vnd.dev.cosign.artifact.sig.v1+json"
ATTESTATION = "application/vnd.dev.cosign.artifact.att.v1+json"
SBOM = "application/vnd.cyclonedx+json"

PAYLOAD_LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
ENVELOPE_LAYER = "application/vnd.dsse.envelope.v1+json"
SIGNATURE_KEY = "dev.cosignproject.cosign/signature"

COSIGN_TAGS = {SIGNATURE: "sig", ATTESTATION: "att"}

MOST_REFERRERS = 200
"""Documents of one image that are looked at."""

MAX_DOCUMENT = 64 << 20


@dataclass(frozen=True, slots=True)
class Content:
    """One layer of an attached document."""

    media_type: str
    data: bytes
    annotations: Mapping[str, str] = field(default_factory=dict)

    def descriptor(self) -> dict[str, Any]:
        """Return its OCI descriptor."""
        found: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": digest_of(self.data),
            "size": len(self.data),
        }
        return found | ({"annotations": dict(self.annotations)} if self.annotations else {})


def attach(
    registry: Repository,
    subject: Mapping[str, Any],
    kind: str,
    contents: Sequence[Content],
    annotations: Mapping[str, str],
) -> str:
    """Store `contents` as one document of artifact type `kind` about `subject` (a descriptor); return its digest.

    Where the registry lists no referrers, the index under the tag `sha256-…` gets it; for cosign signatures and
    attestations also have cosign's tag, and those that are there already stay. Raises PushError.
    """
    tag = COSIGN_TAGS.get(kind)
    layers = [content.descriptor() for content in contents]
    if tag is not None:
        before = _manifest(registry, cosign_tag(str(subject["digest"]), tag)) or {}
        known = {(layer["digest"], _key(layer)) for layer in layers}
        earlier = [one for one in _listed(before, "layers") if (one.get("digest"), _key(one)) not in known]
        layers = [*earlier, *layers]
    put_blob(registry, digest_of(EMPTY), EMPTY)
    for content in contents:
        put_blob(registry, digest_of(content.data), content.data)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": kind,
        "config": {"mediaType": EMPTY_TYPE, "digest": digest_of(EMPTY), "size": len(EMPTY)},
        "layers": layers,
        "subject": {key: subject[key] for key in ("mediaType", "digest", "size")},
        "annotations": dict(annotations),
    }
    data = canonical(manifest)
    answer = registry.call("PUT", f"manifests/{digest_of(data)}", data, kind=MANIFEST_TYPE)
    if answer is None or not answer.headers.get("OCI-Subject"):
        _add_to_index(registry, manifest, data)
    if tag is not None:
        put_manifest(registry, cosign_tag(str(subject["digest"]), tag), data, MANIFEST_TYPE)
    return digest_of(data)


def referrers(registry: Repository, digest: str) -> list[dict[str, Any]]:
    """Return the manifests that refer to the image with `digest`, each once, however found. Raises PushError."""
    found: dict[str, dict[str, Any]] = {}
    index = _document(registry, f"referrers/{digest}", INDEX_TYPE)
    if index is None:
        index = _manifest(registry, fallback_tag(digest))
    wanted = [str(one.get("digest")) for one in _listed(index or {}, "manifests")][:MOST_REFERRERS]
    for reference in (*wanted, *(cosign_tag(digest, suffix) for suffix in COSIGN_TAGS.values())):
        manifest = _manifest(registry, reference)
        if manifest is not None:
            found.setdefault(digest_of(canonical(manifest)), manifest)
    return list(found.values())


def contents(registry: Repository, manifest: Mapping[str, Any]) -> Iterable[Content]:
    """Yield the layers of an attached document whose content is what their digests say. Raises PushError."""
    for layer in _listed(manifest, "layers"):
        digest, annotations = str(layer.get("digest")), layer.get("annotations")
        answer = registry.call("GET", f"blobs/{digest}", most=MAX_DOCUMENT)
        if answer is not None and digest_of(answer.body) == digest:
            notes = annotations if isinstance(annotations, dict) else {}
            yield Content(str(layer.get("mediaType")), answer.body, {str(key): str(notes[key]) for key in notes})


def cosign_tag(digest: str, suffix: str) -> str:
    """Return the tag under which cosign looks for signatures (`sig`) or attestations (`att`) of an image."""
    return f"{fallback_tag(digest)}.{suffix}"


def fallback_tag(digest: str) -> str:
    """Return the tag of the index of referrers, for registries that list none."""
    return digest.replace(":", "-")


def _add_to_index(registry: Repository, manifest: Mapping[str, Any], data: bytes) -> None:
    tag = fallback_tag(str(manifest["subject"]["digest"]))
    listed = _listed(_manifest(registry, tag) or {}, "manifests")
    descriptor = {
        "mediaType": MANIFEST_TYPE,
        "digest": digest_of(data),
        "size": len(data),
        "artifactType": manifest["artifactType"],
        "annotations": manifest["annotations"],
    }
    kept = [one for one in listed if one.get("digest") != descriptor["digest"]]
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*kept, descriptor]}
    put_manifest(registry, tag, canonical(index), INDEX_TYPE)


def _manifest(registry: Repository, reference: str) -> dict[str, Any] | None:
    return _document(registry, f"manifests/{reference}", f"{MANIFEST_TYPE}, {INDEX_TYPE}")


def _document(registry: Repository, url: str, accept: str) -> dict[str, Any] | None:
    answer = registry.call("GET", url, accept=accept)
    if answer is None:
        return None
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise PushError(f"{registry.host} answered {url} with what is no JSON") from None
    return found if isinstance(found, dict) else None


def _listed(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = document.get(key)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _key(layer: Mapping[str, Any]) -> str:
    """Return what tells two layers with one content apart: whose signature they carry."""
    annotations = layer.get("annotations")
    return str(annotations.get(SIGNATURE_KEY)) if isinstance(annotations, dict) else ""
