"""Denials that tell the client what is wrong with its message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policy_engine.sdk import ImmediateResponse, Response

_NOT_STORED = {"cache-control": "no-store"}


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    reason: str,
    errors: Sequence[Mapping[str, Any]] = (),
    more: Mapping[str, Any] | None = None,
) -> ImmediateResponse:
    """Return an answer that the engine writes in the route's format; `reason` is for Envoy's `%RESPONSE_CODE_DETAILS%`.

    `errors` are members with `detail` and `pointer`, as in the example of RFC 9457, 3; `more` are
    extension members (RFC 9457, 3.2).
    """
    members: dict[str, Any] = {"title": title, "detail": detail}
    if errors:
        members["errors"] = list(errors)
    members.update(more or {})
    return ImmediateResponse(status, headers=_NOT_STORED, details=reason, problem=members)


def is_denial(response: Response) -> bool:
    """Return whether this is a denial by a policy, the engine or Envoy: no content of the upstream's to be judged."""
    return response.origin != "upstream" and response.status >= 400
