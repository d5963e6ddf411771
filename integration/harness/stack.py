"""What a test holds while Envoy, the engine and an upstream run, however they were started."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from integration.harness import client
from integration.harness.chain_file import ChainFile
from integration.harness.client import Reply
from integration.harness.engine import EngineAdmin
from integration.harness.envoy import Envoy
from integration.harness.exchange import HeaderList
from integration.harness.jwks import JwksServer
from integration.harness.processes import Process
from integration.harness.tokens import Issuer
from integration.harness.upstream import Upstream

TAKES_EFFECT_S = 20.0
"""How long a changed file may take; a machine under load, so far above what is normal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The running parts; `engine` and `proxy` are the programs or containers, for their logs."""

    envoy: Envoy
    proxy: Process
    engine: Process
    admin: EngineAdmin
    upstream: Upstream
    issuer: Issuer
    jwks: JwksServer
    chains: ChainFile

    def send(
        self,
        target: str,
        *,
        method: str = "GET",
        headers: HeaderList = (),
        token: str | None = None,
        body: bytes | Iterable[bytes] = b"",
    ) -> Reply:
        """Send a request through Envoy, with `token` as bearer token when given."""
        bearer = [("authorization", f"Bearer {token}")] if token is not None else []
        return client.send(self.envoy.port, method, target, headers=[*headers, *bearer], body=body)

    def eventually(self, holds: Callable[[], bool], what: str) -> None:
        """Return once `holds()`; raises AssertionError with the engine's log when it never does."""
        deadline = time.monotonic() + TAKES_EFFECT_S
        while not holds():
            assert time.monotonic() < deadline, f"not {what} after {TAKES_EFFECT_S:g} s\n{self.engine.log()}"
            time.sleep(0.02)

    def new_log(self) -> Callable[[], str]:
        """Return a function that gives what the engine logs from now on."""
        start = len(self.engine.log())
        return lambda: self.engine.log()[start:]
