"""Cross-origin resource sharing at the gateway: what the upstream says about it is replaced."""

from __future__ import annotations

from functools import lru_cache

from policy_engine.sdk import (
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    Response,
    ResponseMutation,
    UnreadableHeader,
    single,
)

from .origins import Origins

_GRANTS = (
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-expose-headers",
)
_KEPT_ORIGINS = 256


class Cors(Policy):
    """Answers preflights itself; lets every other request through and marks its response."""

    def __init__(self, parameters: Parameters) -> None:
        self._origins = Origins(parameters["allow_origins"])
        self._credentials = parameters.get("allow_credentials", False)
        if self._origins.any and self._credentials:
            raise ParameterError(
                'with allow_credentials the origins must be named, "*" is not possible', "/allow_origins"
            )
        self._methods = ", ".join(parameters.get("allow_methods", ("GET", "HEAD", "POST")))
        self._headers = ", ".join(parameters.get("allow_headers", ()))
        self._expose = ", ".join(parameters.get("expose_headers", ()))
        self._max_age = str(parameters.get("max_age", 600))
        self._refused = ImmediateResponse(403, headers={"vary": "origin"}, details="cors_refused")
        # Kept, so that the engine serialises the answers to the few origins there are once.
        self._preflight = lru_cache(_KEPT_ORIGINS)(self._build_preflight)
        self._mark = lru_cache(_KEPT_ORIGINS)(self._build_mark)
        self._unmarked = ResponseMutation(
            remove_headers=_GRANTS, append_headers=() if self._origins.any else (("vary", "origin"),)
        )

    def on_request_headers(self, request: Request) -> ImmediateResponse | None:
        """Answer a preflight (Fetch, 3.2.2: OPTIONS with origin and the method that is to come)."""
        if request.method != "OPTIONS":
            return None
        if "origin" not in request.headers or "access-control-request-method" not in request.headers:
            return None
        origin = _origin(request)
        return self._preflight(self._shown(origin)) if origin and origin in self._origins else self._refused

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation:
        """Say whether the origin may read the response."""
        origin = _origin(request)
        return self._mark(self._shown(origin)) if origin and origin in self._origins else self._unmarked

    def _shown(self, origin: str) -> str:
        return "*" if self._origins.any else origin

    def _grant(self, origin: str) -> dict[str, str]:
        headers = {"access-control-allow-origin": origin}
        if self._credentials:
            headers["access-control-allow-credentials"] = "true"
        return headers

    def _build_preflight(self, origin: str) -> ImmediateResponse:
        headers = self._grant(origin) | {
            "access-control-allow-methods": self._methods,
            "access-control-max-age": self._max_age,
        }
        if self._headers:
            headers["access-control-allow-headers"] = self._headers
        if origin != "*":
            headers["vary"] = "origin"
        return ImmediateResponse(204, b"", headers, details="cors_preflight")

    def _build_mark(self, origin: str) -> ResponseMutation:
        headers = self._grant(origin)
        if self._expose:
            headers["access-control-expose-headers"] = self._expose
        return ResponseMutation(
            set_headers=headers,
            append_headers=() if origin == "*" else (("vary", "origin"),),
            remove_headers=[name for name in _GRANTS if name not in headers],
        )


def _origin(request: Request) -> str | None:
    """Return the origin, None when there is none or when several differ: an answer can be for one only."""
    try:
        return single(request.headers, "origin")
    except UnreadableHeader:
        return None
