"""What policies that let in by tokens have in common: bearer tokens on the wire, rules for claims, their headers."""

from policy_tokens.bearer import Bearer, bearer_at
from policy_tokens.clients import ClientAuthentication, client_authentication
from policy_tokens.headers import ClaimHeader, claims_to_headers
from policy_tokens.paths import claim_path
from policy_tokens.rules import ClaimRule, Scopes, audiences_of, claim_rules, required_scopes

__all__ = [
    "Bearer",
    "ClaimHeader",
    "ClaimRule",
    "ClientAuthentication",
    "Scopes",
    "audiences_of",
    "bearer_at",
    "claim_path",
    "claim_rules",
    "claims_to_headers",
    "client_authentication",
    "required_scopes",
]
