"""What every source of chains takes and tells: how chains come into effect, and what became of a load."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from policy_engine.documents.diagnostics import Diagnostic
from policy_engine.worker.chains.spec import ChainsSpec

Apply = Callable[[ChainsSpec], Awaitable[None]]
"""Puts chains into effect everywhere, or raises and leaves everywhere what was there before."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The outcome of one load. `accepted` says that `chains` are now in effect.

    `content_hash` names what was loaded; `diagnostics` may hold warnings of an accepted load.
    """

    accepted: bool
    content_hash: str
    diagnostics: tuple[Diagnostic, ...]
    chains: ChainsSpec | None


Report = Callable[[LoadReport], None]
