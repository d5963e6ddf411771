"""What every source of chains takes and tells: how chains come into effect, and what became of a load."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policy_engine.documents.diagnostics import Diagnostic
from policy_engine.documents.error_text import error_text
from policy_engine.documents.redaction import REDACTED, strike_out_pieces
from policy_engine.sdk.json_pointer import find, parse_pointer
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


def why_not_applied(error: Exception, chains: ChainsSpec) -> str:
    """Return why `chains` could not be put into effect, for operators and the management server.

    The error of a policy may quote its parameters, so every secret of the chains is struck out.
    """
    message = f"could not be put into effect: {error_text(error)}"
    secrets = {
        text
        for route in chains.routes
        for policy in route.policies
        for pointer in policy.secrets
        for text in _texts(find(policy.parameters, parse_pointer(pointer)))
    }
    for secret in sorted(secrets, key=len, reverse=True):
        message = message.replace(secret, REDACTED)
    return strike_out_pieces(message, secrets)


def _texts(value: Any) -> Iterator[str]:
    """Yield a secret as it may be quoted: whole, and each text and number in it."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif value is not None and not isinstance(value, bool) and str(value):
        yield str(value)
        yield repr(str(value))[1:-1]
