"""Judges the body of a request: one pure function of rules and bytes, so that it can be done wherever there is time."""

from __future__ import annotations

from dataclasses import dataclass

from policy_body import NotJson, dump, parse
from policy_llm import is_prompt, places

from .rules import Rules, RuleTexts, compiled, readings, redacted

_MOST_SUSPECTS = 10_000
"""Texts of one request that are looked at one by one; one with more of them is denied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRules:
    """What prompts are held to; the parameters of the policy that are about prompts."""

    texts: RuleTexts
    roles: frozenset[str]
    longest: int | None = None
    redacts: bool = False
    label: str = ""
    passes_unknown: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of a request. `reason` is empty when it passes."""

    reason: str = ""
    detail: str = ""
    denied: int = 0
    unknown: bool = False
    body: bytes | None = None


def judge(rules: PromptRules, body: bytes) -> Verdict:
    """Look at all that the model will read of a request."""
    try:
        document = parse(body)
    except NotJson as error:
        return Verdict("llm_body_not_json", f"The body is not valid JSON: {error}.")
    if not isinstance(document, dict):
        return Verdict("llm_body_not_json", "The body is not a JSON object.")
    unknown = not is_prompt(document)
    if unknown and not rules.passes_unknown:
        return Verdict("llm_prompt_unknown", "The body is no request to a language model that is known.", unknown=True)
    found = [place for place in places(document) if not place.role or place.role in rules.roles]
    if rules.longest is not None and sum(len(place.text) for place in found if not place.is_name) > rules.longest:
        return Verdict("llm_prompt_too_long", f"The prompt is longer than {rules.longest} characters.", unknown=unknown)
    suspects = [found[at] for at in compiled(rules.texts).suspects([place.text for place in found])]
    if len(suspects) > _MOST_SUSPECTS:
        return Verdict("llm_prompt_denied", "The prompt is not allowed.", len(suspects), unknown)
    denied = [place for place in suspects if _is_denied(compiled(rules.texts), place.text)]
    if not denied:
        return Verdict(unknown=unknown)
    if not rules.redacts or any(place.is_name for place in denied):  # a member of another name would be another member
        return Verdict("llm_prompt_denied", "The prompt is not allowed.", len(denied), unknown)
    for place in denied:
        place.replace(_redacted(compiled(rules.texts), place.text, rules.label))
    return Verdict(denied=len(denied), unknown=unknown, body=dump(document))


def _is_denied(rules: Rules, text: str) -> bool:
    return any(map(rules.denies, readings(text)))


def _redacted(rules: Rules, text: str, label: str) -> str:
    for reading in readings(text):
        spans = rules.spans(reading)
        if spans:
            return redacted(reading, spans, label)
    return text
