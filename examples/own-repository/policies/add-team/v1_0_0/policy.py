"""Sets a header of the request; the change is built once, when the chain is loaded."""

from __future__ import annotations

from policy_engine.sdk import ParameterError, Parameters, Policy, Request, RequestMutation, header_name, header_value


class AddTeam(Policy):
    """Gives every request the same change."""

    def __init__(self, parameters: Parameters) -> None:
        try:
            changes = {header_name(parameters["header"]): header_value(parameters["value"])}
        except ValueError as error:
            raise ParameterError(str(error)) from None
        self._change = RequestMutation(set_headers=changes)

    def on_request_headers(self, request: Request) -> RequestMutation:
        """Set the header."""
        return self._change
