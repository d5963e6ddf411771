"""Webhooks let through by the HMAC that their sender made with a shared secret; nothing goes on before it fits."""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable

from policy_engine.sdk import (
    ImmediateResponse,
    Parameters,
    Policy,
    Request,
    RequestAction,
    UnreadableHeader,
    content_codings,
)

from .formats import TOLERANCE, Claim, Unsigned, format_of, keys_of


class WebhookSignature(Policy):
    """403 without a valid signature; what the headers tell is refused before the body is read.

    Else `metadata["webhook_signature"]["secret"]` is the place of the secret that fitted, from 0.
    """

    offload_above = 1 << 20

    def __init__(self, parameters: Parameters) -> None:
        self._format = format_of(parameters)
        self._keys = keys_of(parameters)
        self._tolerance = parameters.get("tolerance", TOLERANCE)
        self.credentials = self._format.headers
        self._wrong = _refusal("webhook_signature_wrong")
        self._stale = _refusal("webhook_signature_stale")
        self._encoded = _refusal("webhook_body_encoded")

    def on_request_headers(self, request: Request) -> ImmediateResponse | None:
        """Read the signature and the time."""
        try:
            claim = self._format.read(request.headers)
            codings = content_codings(request.headers)
        except Unsigned as unsigned:
            return _refusal(unsigned.reason)
        except UnreadableHeader:
            return self._encoded
        if codings:
            # What was signed is what was sent, and policies get the body decoded.
            return self._encoded
        if claim.time is not None and abs(time.time() - claim.time) > self._tolerance:
            return self._stale
        self.state(request)["claim"] = claim
        return None

    def on_request_body(self, request: Request) -> RequestAction | Awaitable[RequestAction | None] | None:
        """Hold the body against it."""
        claim: Claim = self.state(request)["claim"]
        body = request.body or b""
        return self.offload_large(
            self._fitting,
            body,
            claim.before,
            claim.after,
            list(claim.signatures),
            size=len(body) * len(self._keys),
            then=lambda place: self._answer(request, place),
        )

    def _fitting(self, body: bytes, before: bytes, after: bytes, signatures: list[bytes]) -> int:
        """Return the place of the secret that one of the signatures was made with, -1 for none."""
        found = -1
        for place, key in enumerate(self._keys):
            made = hmac.new(key, before, self._format.algorithm)
            made.update(body)
            made.update(after)
            digest = made.digest()
            for signature in signatures:
                if hmac.compare_digest(signature, digest):
                    found = place  # and go on: the time must not tell which one it was
        return found

    def _answer(self, request: Request, place: int) -> ImmediateResponse | None:
        if place < 0:
            return self._wrong
        request.metadata["webhook_signature"] = {"secret": place}
        return None


def _refusal(reason: str) -> ImmediateResponse:
    return ImmediateResponse(403, details=reason)
