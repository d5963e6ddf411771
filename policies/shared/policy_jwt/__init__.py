"""Validation of JSON Web Tokens for policies: key sets, signatures, claims, bearer tokens (R-34).

A plain library, shared by the versions of `jwt-validation`; it is no policy itself. See its README.
"""

from policy_jwt.errors import InvalidToken, KeysUnavailable
from policy_jwt.parameters import bearer_from, verifier_from
from policy_jwt.verifier import Verified, Verifier
from policy_tokens import Bearer

__all__ = ["Bearer", "InvalidToken", "KeysUnavailable", "Verified", "Verifier", "bearer_from", "verifier_from"]
