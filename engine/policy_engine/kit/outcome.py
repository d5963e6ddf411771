"""What became of an exchange, as a test looks at it."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from policy_engine.sdk import (
    ChunkMutation,
    Headers,
    ImmediateResponse,
    Json,
    Policy,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
    TrailerMutation,
)

Action = RequestMutation | ResponseMutation | ImmediateResponse | ChunkMutation | TrailerMutation | None


@dataclass(frozen=True, slots=True)
class Step:
    """One hook that ran, and what the engine took from it (None for "no change").

    For a chunk hook that was given a whole body that is a mutation of the whole body.
    """

    policy: Policy
    hook: str
    action: Action


@dataclass(slots=True)
class Outcome:
    """What became of the exchange.

    `request` is what the upstream got (or would have got, when `reached_upstream` is false), `response` what the
    client gets, `immediate` the immediate response that ended the exchange, of a policy or of the engine.
    `request_chunks` and `response_chunks` are the pieces of a streamed body as they were passed on. `steps` lists the
    hooks in the order in which they ran, `counted` what their metrics grew by: name, labels, amount.
    """

    request: Request
    response: Response
    immediate: ImmediateResponse | None = None
    reached_upstream: bool = False
    dynamic_metadata: dict[str, dict[str, Json]] = field(default_factory=dict)
    request_chunks: list[bytes] = field(default_factory=list)
    response_chunks: list[bytes] = field(default_factory=list)
    request_trailers: Headers | None = None
    response_trailers: Headers | None = None
    steps: list[Step] = field(default_factory=list)
    counted: list[tuple[str, dict[str, str], float]] = field(default_factory=list)

    def metric(self, name: str, /, **labels: str) -> float:
        """Return how much the policies counted with these labels in this exchange, by the name of the metric.

        Of a histogram it is the number of values; `metric("sizes_sum")` is their sum. Labels that are not given count
        together.
        """
        return sum(amount for one, own, amount in self.counted if one == name and labels.items() <= own.items())

    @property
    def status(self) -> int:
        """HTTP status that the client gets."""
        return self.response.status

    @property
    def body(self) -> bytes | None:
        """Body that the client gets; None when there is none or it was streamed."""
        return self.response.body

    @property
    def metadata(self) -> MutableMapping[str, Any]:
        """The metadata shared by the policies (R-04)."""
        return self.request.metadata

    @property
    def hooks(self) -> list[str]:
        """The hooks that ran, as `Class.hook`."""
        return [f"{type(step.policy).__name__}.{step.hook}" for step in self.steps]
