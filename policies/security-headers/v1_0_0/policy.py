"""The same mutation for every response, built when the chain is loaded."""

from __future__ import annotations

from policy_engine.sdk import (
    ParameterError,
    Parameters,
    Policy,
    Request,
    Response,
    ResponseMutation,
    header_name,
    header_value,
)

_HEADERS = {
    "strict_transport_security": ("strict-transport-security", "max-age=31536000; includeSubDomains"),
    "content_security_policy": ("content-security-policy", ""),
    "frame_options": ("x-frame-options", "DENY"),
    "content_type_options": ("x-content-type-options", "nosniff"),
    "referrer_policy": ("referrer-policy", "strict-origin-when-cross-origin"),
    "permissions_policy": ("permissions-policy", ""),
    "cross_origin_opener_policy": ("cross-origin-opener-policy", ""),
    "cross_origin_resource_policy": ("cross-origin-resource-policy", ""),
}


class SecurityHeaders(Policy):
    """Sets what is configured and removes what tells too much."""

    def __init__(self, parameters: Parameters) -> None:
        chosen: dict[str, str] = {}
        for parameter, (header, default) in _HEADERS.items():
            value = parameters.get(parameter, default)
            if value:
                try:
                    chosen[header] = header_value(value)
                except ValueError as error:
                    raise ParameterError(str(error), f"/{parameter}") from None
        remove = []
        for index, name in enumerate(parameters.get("remove", ("server", "x-powered-by"))):
            try:
                remove.append(header_name(name))
            except ValueError as error:
                raise ParameterError(str(error), f"/remove/{index}") from None
            if remove[-1] in chosen:
                raise ParameterError(f"{name!r} is set by this policy as well", f"/remove/{index}")
        self._mutation = ResponseMutation(set_headers=chosen, remove_headers=tuple(remove))
        self.constant_actions = {"response_headers": self._mutation}

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation:
        """Change the response."""
        return self._mutation
