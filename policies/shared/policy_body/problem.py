"""Answers with a problem document (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from policy_engine.sdk import ImmediateResponse


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    reason: str,
    errors: Sequence[Mapping[str, Any]] = (),
    more: Mapping[str, Any] | None = None,
) -> ImmediateResponse:
    """Return an `application/problem+json` answer; `reason` is for Envoy's `%RESPONSE_CODE_DETAILS%`.

    `errors` are members with `detail` and `pointer`, as in the example of RFC 9457, 3; `more` are
    extension members (RFC 9457, 3.2).
    """
    document: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if errors:
        document["errors"] = list(errors)
    document.update(more or {})
    headers = {"content-type": "application/problem+json", "cache-control": "no-store"}
    return ImmediateResponse(status, json.dumps(document), headers, details=reason)
