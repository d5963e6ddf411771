"""Closes the policies of chains that have run their last request (R-31)."""

from __future__ import annotations

from collections.abc import Iterable

from policy_engine.worker.chains.compiled import CompiledChain
from policy_engine.worker.policies.closing import close_soon


def close_chains(chains: Iterable[CompiledChain]) -> None:
    """Close every instance, as `close_soon` does."""
    for chain in chains:
        for instance in chain.instances:
            close_soon(instance, chain.route_key)


def leave(chain: CompiledChain) -> None:
    """A stream on the chain is over; the last one on a retired chain closes its policies."""
    usage = chain.usage
    usage.streams -= 1
    if usage.retired and usage.streams == 0:
        close_chains((chain,))
