"""A policy for the engine's own tests: answers with the header lines it was shown, as JSON."""

from __future__ import annotations

import json

from policy_engine.sdk import Headers, ImmediateResponse, Policy, Request, Response


class HeadersSeen(Policy):
    """Answers with the request's headers to `x-show: request`, with the response's to anything else."""

    def on_request_headers(self, request: Request) -> ImmediateResponse | None:
        return _shown(request.headers) if request.headers.get("x-show") == "request" else None

    def on_response_headers(self, request: Request, response: Response) -> ImmediateResponse:
        return _shown(response.headers)


def _shown(headers: Headers) -> ImmediateResponse:
    return ImmediateResponse(200, json.dumps(list(headers.items())))
