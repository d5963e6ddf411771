"""What an answer says of itself beside its texts: its id, the model that wrote it, why it ended, whose API it is.

Names of attributes and of providers are those of OpenTelemetry's semantic conventions for generative AI.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from policy_llm.reading import is_said, member, objects

_MOST_REASONS = 16
_LONGEST = 256


@dataclass(slots=True)
class Head:
    """What is known so far; `reasons` are in the words of the API, in the order in which they came."""

    identity: str = ""
    model: str = ""
    provider: str = ""
    reasons: list[str] = field(default_factory=list)

    def take(self, document: Any) -> None:
        """Learn from one document of the answer, an event of a stream or a whole one."""
        if not isinstance(document, dict):
            return
        holder = next(
            (one for name in ("response", "message") if isinstance(one := document.get(name), dict)), document
        )
        self.identity = _text(holder, "id", "responseId") or self.identity
        self.model = _text(holder, "model", "modelVersion") or self.model
        self.provider = self.provider or _provider(document)
        for reason in _reasons(document, holder):
            if len(self.reasons) < _MOST_REASONS:
                self.reasons.append(reason[:_LONGEST])


def _text(holder: Mapping[str, Any], *names: str) -> str:
    found = next((value for name in names if isinstance(value := holder.get(name), str)), "")
    return found[:_LONGEST]


def _provider(document: Mapping[str, Any]) -> str:
    kind = document.get("type")
    named = kind if isinstance(kind, str) else ""
    if "choices" in document or named.startswith("response.") or document.get("object") == "response":
        return "openai"
    if named == "message" or named.startswith(("message_", "content_block_")):
        return "anthropic"
    return "gcp.gemini" if "candidates" in document or "usageMetadata" in document else ""


def _reasons(document: Mapping[str, Any], holder: Mapping[str, Any]) -> Iterator[str]:
    found = [choice.get("finish_reason") for choice in objects(document.get("choices"))]
    found += [candidate.get("finishReason") for candidate in objects(document.get("candidates"))]
    found += [member(document.get("delta"), "stop_reason"), holder.get("stop_reason")]
    if document.get("object") == "response" or holder is document.get("response"):
        status = holder.get("status")
        found.append(status if status not in ("queued", "in_progress") else None)
    yield from (reason for reason in found if is_said(reason) and isinstance(reason, str))
