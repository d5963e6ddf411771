"""What a written chain runs, without a look at policies or parameters: for those who have no registry at hand.

A separate module because the control plane asks it of chains that engines will read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policy_engine.sources.chain_reader import ANY_OF
from policy_engine.worker.chains.needs import expressions_in
from policy_engine.worker.chains.spec import Mode


@dataclass(frozen=True, slots=True)
class WrittenPolicy:
    """A policy that an entry of a valid chain may run; `timeout` is as written, None when it is not.

    `expressions` are those of CEL that decide whether it runs (conditions, keys of shares), and those among its
    parameters that look up what Envoy tells.
    """

    name: str
    version: str
    timeout: str | None
    shadow: bool
    expressions: tuple[str, ...] = ()


def running(
    chain: Iterable[Mapping[str, Any]], *, shadow: bool = False, expressions: tuple[str, ...] = ()
) -> Iterator[WrittenPolicy]:
    """Yield the policies that the enabled entries of `chain` may run, each version and each alternative."""
    for entry in chain:
        if not entry.get("enabled", True):
            continue
        apart = shadow or entry.get("mode") == Mode.SHADOW
        share = entry.get("share")
        by = share.get("by") if isinstance(share, Mapping) else None
        deciding = (*expressions, *filter(None, (entry.get("condition"), by)))
        if ANY_OF in entry:
            yield from running(entry[ANY_OF], shadow=apart, expressions=deciding)
        else:
            for version in entry.get("versions") or (entry["version"],):
                looking = (*deciding, *expressions_in(entry.get("parameters")))
                yield WrittenPolicy(entry["name"], version, entry.get("timeout"), apart, looking)
