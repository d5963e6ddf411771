"""The cheapest policy that needs the request body, so that the way of the body is what is measured."""

from __future__ import annotations

from policy_engine.sdk import Policy, Request, RequestMutation


class ReadBody(Policy):
    """Sets `x-body-bytes`."""

    def on_request_body(self, request: Request) -> RequestMutation:
        """Tell the length."""
        return RequestMutation(set_headers={"x-body-bytes": str(len(request.body or b""))})
