"""Claims as header values; apart from the policy because the writing of a value is a rule of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policy_engine.sdk import MISSING, ParameterError, Parameters, find, header_name
from policy_expressions import header_text
from policy_tokens.paths import claim_path


@dataclass(frozen=True, slots=True)
class ClaimHeader:
    """A claim and the header that it goes into."""

    path: tuple[str, ...]
    header: str

    def value(self, claims: Mapping[str, Any]) -> str | None:
        """Return the header value, None for a claim that is missing or null; raises ValueError if it cannot be sent."""
        found = find(claims, self.path)
        return None if found is MISSING or found is None else header_text(found)


def claims_to_headers(parameters: Parameters) -> tuple[ClaimHeader, ...]:
    """Return the claims to be sent; raises ParameterError."""
    rules = []
    for index, entry in enumerate(parameters.get("claims_to_headers", ())):
        where = f"/claims_to_headers/{index}"
        try:
            name = header_name(entry["header"])
        except ValueError as error:
            raise ParameterError(str(error), f"{where}/header") from None
        rules.append(ClaimHeader(claim_path(entry["claim"], f"{where}/claim"), name))
    return tuple(rules)
