"""A policy that does nothing."""

from policy_engine.sdk import Policy, Request


class OddFiles(Policy):
    """Does nothing."""

    def on_request_headers(self, request: Request) -> None:
        """Let every request pass."""
