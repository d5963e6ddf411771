"""Builds registries, chains and sessions from policy classes written in a test."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from policy_engine.kernel.kernel import Kernel, KernelOptions
from policy_engine.kernel.session import Session
from policy_engine.kernel.stream import Peer
from policy_engine.sdk import Policy
from policy_engine.sdk.hooks import phases_of
from policy_engine.worker.chains.compiler import Compiler
from policy_engine.worker.chains.spec import ChainsSpec, FailureMode, PolicySpec, RouteSpec
from policy_engine.worker.policies.registry import PolicyDefinition, Registry, Version


def define(policy_class: type[Policy], name: str | None = None, version: str = "v1.0.0") -> PolicyDefinition:
    """A definition whose phases are those the class has hooks for."""
    return PolicyDefinition(
        name or policy_class.__name__.lower(),
        Version.parse(version),
        "a policy of a test",
        f"policy:{policy_class.__name__}",
        phases_of(policy_class),
        {},
        (),
        policy_class,
        "test",
        "sha256:0",
    )


def entry(
    policy_class: type[Policy],
    *,
    failure_mode: str = "closed",
    timeout: float = 1.0,
    condition: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    enabled: bool = True,
    **more: Any,
) -> PolicySpec:
    """A chain entry for a class that `kernel_of` was given; `more` are further fields of `PolicySpec`."""
    return PolicySpec(
        policy_class.__name__.lower(),
        "v1",
        enabled=enabled,
        condition=condition,
        failure_mode=FailureMode(failure_mode),
        timeout=timeout,
        parameters=parameters or {},
        **more,
    )


def chains(**routes: Iterable[PolicySpec | type[Policy]]) -> ChainsSpec:
    """A configuration from `route=[entries or classes]`."""
    return ChainsSpec(
        tuple(
            RouteSpec(key, tuple(one if isinstance(one, PolicySpec) else entry(one) for one in entries))
            for key, entries in routes.items()
        )
    )


class Engine:
    """A kernel with a compiler, as a worker has them."""

    def __init__(self, classes: Iterable[type[Policy]], options: KernelOptions | None = None) -> None:
        self.compiler = Compiler(Registry([define(one) for one in dict.fromkeys(classes)]))
        self.kernel = Kernel(options)

    def activate(self, spec: ChainsSpec) -> None:
        self.kernel.activate(self.compiler.compile(spec, self.kernel.snapshot))

    def session(self, peer: Peer | None = None) -> Session:
        """A stream's session, on a connection of its own unless `peer` says which."""
        return Session(self.kernel, peer or Peer())


def engine(*entries: PolicySpec | type[Policy], classes: Iterable[type[Policy]] = (), **options: Any) -> Engine:
    """An engine whose route `r` has the chain `entries`; `classes` names those that are given as entries only."""
    known = [one for one in entries if not isinstance(one, PolicySpec)] + list(classes)
    made = Engine(known, KernelOptions(**options))
    made.activate(chains(r=entries))
    return made


def settle(replies: Any) -> Any:
    """The replies of `receive`, awaited when a policy had to wait."""
    if isinstance(replies, Coroutine):

        async def run() -> Any:
            return await replies

        return asyncio.run(run())
    return replies
