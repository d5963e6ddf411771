"""One id for the request, the upstream, the response and the policies that follow."""

from __future__ import annotations

import os
import re

from policy_engine.sdk import (
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
    header_name,
    list_members,
)

_GOOD = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class RequestId(Policy):
    """Keeps a good id, replaces a bad one, and puts it into `metadata["request_id"]`."""

    def __init__(self, parameters: Parameters) -> None:
        try:
            self._header = header_name(parameters.get("header", "x-request-id"))
        except ValueError as error:
            raise ParameterError(str(error), "/header") from None
        self._accept = parameters.get("accept_incoming", True)
        if not parameters.get("in_response", True):
            self.idle_phases = {"response_headers"}

    def on_request_headers(self, request: Request) -> RequestMutation | None:
        """Settle the id."""
        values = request.headers.get_all(self._header) if self._accept else ()
        given = set(list_members(values))
        if len(given) == 1 and _GOOD.fullmatch(one := given.pop()):
            request.metadata["request_id"] = one
            return None if values == (one,) else RequestMutation(set_headers={self._header: one})
        made = _random_uuid()
        request.metadata["request_id"] = made
        return RequestMutation(set_headers={self._header: made})

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation | None:
        """Tell the client."""
        settled = request.headers.get(self._header)
        return None if settled is None else ResponseMutation(set_headers={self._header: settled})


def _random_uuid() -> str:
    """Return a UUID of version 4 (RFC 9562, 5.4); `str(uuid4())` takes three times as long."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
