"""The forms that signatures have: cosign's payload for an image, and DSSE envelopes around in-toto statements.

A separate module because signing and verifying must agree on every byte. Sources: cosign's SIGNATURE_SPEC.md, the DSSE
protocol (secure-systems-lab/dsse), in-toto's Attestation Framework (Statement v1).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policy_builder.attest.keys import PublicKey, Signer

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
CYCLONEDX = "https://cyclonedx.org/bom"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

_SIGNATURE_TYPE = "cosign container image signature"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is vouched for: the image or index with `digest` (`sha256:…`) in `repository`."""

    repository: str
    digest: str


def image_payload(subject: Subject, annotations: Mapping[str, str]) -> bytes:
    """Return what is signed to vouch for an image (the "simple signing" payload)."""
    critical = {
        "identity": {"docker-reference": subject.repository},
        "image": {"docker-manifest-digest": subject.digest},
        "type": _SIGNATURE_TYPE,
    }
    return json.dumps({"critical": critical, "optional": dict(annotations) or None}, separators=(",", ":")).encode()


def signed_digest(payload: bytes) -> str | None:
    """Return the digest that a payload vouches for; None for what is none."""
    try:
        critical = json.loads(payload)["critical"]
        digest = critical["image"]["docker-manifest-digest"] if critical["type"] == _SIGNATURE_TYPE else None
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) else None


def statement(subject: Subject, kind: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """Return an in-toto statement of the predicate type `kind` about an image."""
    algorithm, _, value = subject.digest.partition(":")
    return {
        "_type": STATEMENT,
        "subject": [{"name": subject.repository, "digest": {algorithm: value}}],
        "predicateType": kind,
        "predicate": dict(predicate),
    }


def envelope(document: Mapping[str, Any], signer: Signer) -> bytes:
    """Return the signed DSSE envelope around a statement."""
    payload = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    signature = signer.sign(_pre_authentication(payload))
    found = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": "", "sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(found, separators=(",", ":")).encode()


def opened(content: bytes, keys: Sequence[PublicKey]) -> dict[str, Any] | None:
    """Return the statement in an envelope that one of `keys` signed; None when none of them did."""
    try:
        document = json.loads(content)
        payload = base64.b64decode(document["payload"], validate=True)
        signatures = [base64.b64decode(one["sig"]) for one in document["signatures"]]
        if document["payloadType"] != PAYLOAD_TYPE:
            return None
        signed = _pre_authentication(payload)
        if not any(key.verifies(signature, signed) for key in keys for signature in signatures):
            return None
        found = json.loads(payload)
    except (ValueError, RecursionError, KeyError, TypeError, binascii.Error):
        return None
    return found if isinstance(found, dict) and found.get("_type") == STATEMENT else None


def vouches_for(document: Mapping[str, Any], digest: str) -> bool:
    """Return whether a statement is about the image with `digest`."""
    algorithm, _, value = digest.partition(":")
    subjects = document.get("subject")
    return isinstance(subjects, list) and any(
        isinstance(one, dict) and isinstance(one.get("digest"), dict) and one["digest"].get(algorithm) == value
        for one in subjects
    )


def _pre_authentication(payload: bytes) -> bytes:
    """Return what DSSE signs: type and content with their lengths."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
