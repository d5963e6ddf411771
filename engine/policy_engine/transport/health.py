"""Serving state as gRPC health sees it, shared by both transports: who decides readiness sets it, watchers are told."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

EXT_PROC_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"


class ServingStatus(IntEnum):
    """`grpc.health.v1.HealthCheckResponse.ServingStatus`."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


class Health:
    """One state for the whole server (`""`) and its services. Not serving until told (R-50)."""

    def __init__(self, services: tuple[str, ...] = (EXT_PROC_SERVICE,), *, serving: bool = False) -> None:
        self._services = frozenset(("", *services))
        self._serving = serving
        self._draining = False
        self._still_served = False
        self._observers: dict[object, Callable[[], None]] = {}

    @property
    def serving(self) -> bool:
        """Whether new work is welcome, here or at whom took the addresses over."""
        return self._serving and (self._still_served or not self._draining)

    @property
    def draining(self) -> bool:
        """True from `drain` on; a watch then ends."""
        return self._draining

    def status(self, service: str) -> ServingStatus:
        """Return the state of a service; `SERVICE_UNKNOWN` when there is no such service here."""
        if service not in self._services:
            return ServingStatus.SERVICE_UNKNOWN
        return ServingStatus.SERVING if self.serving else ServingStatus.NOT_SERVING

    def set_serving(self, serving: bool) -> None:
        """Change readiness; observers are called only when it really changed."""
        if serving != self._serving:
            self._serving = serving
            self._notify()

    def drain(self, *, still_served: bool = False) -> None:
        """Not serving from now on, for good; watches end.

        With `still_served`, another process has the same addresses: whoever asks goes on being told that they serve,
        and is not sent away from them.
        """
        if not self._draining:
            self._draining, self._still_served = True, still_served
            self._notify()

    def observe(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` after every change, in the thread of the change; returns the function that stops it."""
        key = object()
        self._observers[key] = changed
        return lambda: self._observers.pop(key, None) and None

    def _notify(self) -> None:
        for changed in tuple(self._observers.values()):
            changed()
