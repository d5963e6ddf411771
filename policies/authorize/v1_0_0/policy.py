"""Who may do what: rules in CEL, asked in their order, the first that holds decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policy_engine.sdk import (
    Expression,
    ExpressionFailed,
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
)
from policy_expressions import Budget


class Authorize(Policy):
    """Refuses what no rule allows.

    A rule that cannot be evaluated is decided on the safe side: one that denies holds, one that allows does not. On the
    way, `metadata["authorize"]["rule"]` is the name of the rule that allowed, "default" where none did.
    """

    def __init__(self, parameters: Parameters) -> None:
        status = parameters.get("status", 403)
        self._rules = [self._rule(index, rule, status) for index, rule in enumerate(parameters["rules"])]
        _refuse_repeated(self._rules)
        self._allows_by_default = parameters.get("default", "deny") == "allow"
        self._no_rule = ImmediateResponse(status, details="authorize_no_rule")
        self._too_expensive = ImmediateResponse(status, details="authorize_too_expensive")

    def on_request_headers(self, request: Request) -> ImmediateResponse | None:
        """Ask the rules."""
        budget = Budget()
        no_rule = self._no_rule
        for rule in self._rules:
            try:
                holds = rule.when is None or rule.when.evaluate(request)
            except ExpressionFailed:
                if not rule.allows:
                    return rule.failed
                if no_rule is self._no_rule:
                    no_rule = rule.failed
                holds = False
            if holds:
                return self._allow(request, rule.name) if rule.allows else rule.refused
            if budget.spent():
                return self._too_expensive
        return self._allow(request, "default") if self._allows_by_default else no_rule

    def _allow(self, request: Request, name: str) -> ImmediateResponse | None:
        request.metadata["authorize"] = {"rule": name}
        return None

    def _rule(self, index: int, rule: Mapping[str, Any], status: int) -> _Rule:
        name = rule["name"]
        text = rule.get("when")
        try:
            when = None if text is None else self.condition(text, f"/rules/{index}/when")
        except ParameterError as error:
            raise ParameterError(f"rule {name}: {error.message}", error.path) from None
        return _Rule(
            name=name,
            allows=rule["action"] == "allow",
            when=when,
            refused=ImmediateResponse(status, details=f"authorize_denied:{name}"),
            failed=ImmediateResponse(status, details=f"authorize_rule_failed:{name}"),
        )


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    allows: bool
    when: Expression[bool] | None
    refused: ImmediateResponse
    failed: ImmediateResponse


def _refuse_repeated(rules: list[_Rule]) -> None:
    known = set[str]()
    for index, rule in enumerate(rules):
        if rule.name in known:
            reason = f"there is another rule {rule.name}; the name has to say which one decided"
            raise ParameterError(reason, f"/rules/{index}/name")
        known.add(rule.name)
