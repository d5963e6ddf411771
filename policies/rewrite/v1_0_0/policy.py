"""Path, method and authority of the request, changed by rules that are fixed when the chain is loaded."""

from __future__ import annotations

from functools import lru_cache

from policy_engine.sdk import ImmediateResponse, Parameters, Policy, Request, RequestMutation
from policy_paths import is_target, path_change

_KEPT_PATHS = 1024


class Rewrite(Policy):
    """Gives the same mutation again for the same path."""

    def __init__(self, parameters: Parameters) -> None:
        path = parameters.get("path")
        self._change = None if path is None else path_change(path)
        self._keep_query = path is None or not path.get("drop_query", False)
        self._method = parameters.get("method")
        self._authority = parameters.get("authority")
        self._clear = parameters.get("clear_route_cache", False)
        self._mutation = lru_cache(_KEPT_PATHS)(self._build)
        self._impossible = ImmediateResponse(400, details="rewrite_impossible")

    def on_request_headers(self, request: Request) -> RequestMutation | ImmediateResponse | None:
        """Change the request."""
        target = None
        if self._change is not None:
            path, mark, query = request.target.partition("?")
            target = self._change(path) + (mark + query if self._keep_query else "")
            if target == request.target:
                target = None
            elif not is_target(target):
                return self._impossible
        return self._mutation(target)

    def _build(self, target: str | None) -> RequestMutation | None:
        if target is None and self._method is None and self._authority is None:
            return None
        return RequestMutation(
            path=target, method=self._method, authority=self._authority, clear_route_cache=self._clear
        )
