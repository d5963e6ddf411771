"""The kit warns of body hooks that hold the event loop, and not of work that they offload."""

from __future__ import annotations

import asyncio
import time
import warnings
from typing import Any

import pytest

from policy_engine.sdk import Chunk, ImmediateResponse, Policy, Request, RequestMutation, Response
from policy_engine.sdk.testing import HeldTimeWarning, request, response, run
from policy_engine.worker.offload.job import CannotOffload

LARGE = b"x" * 100_000


def work(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


class Holding(Policy):
    """Computes in its body hooks itself."""

    def on_request_body(self, request: Request) -> Any:
        work(0.05)

    async def on_response_body(self, request: Request, response: Response) -> Any:
        work(0.005)
        await asyncio.sleep(0)
        work(0.05)


class Chunks(Policy):
    """The same by chunks."""

    def on_request_chunk(self, request: Request, chunk: Chunk) -> Any:
        work(0.05 if chunk.end else 0)


class Offloading(Policy):
    """Leaves the same to helpers, in each of the ways."""

    def on_request_body(self, request: Request) -> Any:
        return self.offload_large(self._check, request.body, then=lambda found: RequestMutation(body=found))

    async def on_response_body(self, request: Request, response: Response) -> Any:
        await self.offload(self._check, response.body)
        work(0.005)

    def _check(self, body: bytes) -> bytes:
        work(0.05)
        return body[:1]


class Patient(Holding):
    """In threads nothing is held."""

    blocking = True
    on_response_body = Policy.on_response_body  # type: ignore[assignment] # without this hook


class Unsendable(Policy):
    """Offloads what no helper can be sent."""

    def on_request_body(self, request: Request) -> Any:
        return self.offload_large(self._check, request.body, request)

    def _check(self, body: bytes, given: Request) -> ImmediateResponse | None:
        return None


def told(policy: Policy, **how: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        body = None if "request_chunks" in how else LARGE
        run(policy, request("POST", "/", body=body), response(200, body=LARGE), **how)
    return [str(one.message) for one in caught if one.category is HeldTimeWarning]


def test_a_body_hook_that_computes_is_named_with_time_and_size() -> None:
    first, second = told(Holding({}))
    assert first.startswith("Holding.on_request_body held the event loop for ")
    assert "with a body of 100,000 bytes" in first
    assert second.startswith("Holding.on_response_body held")
    (one,) = told(Chunks({}), request_chunks=[b"a", b"bc"])
    assert one.startswith("Chunks.on_request_chunk held")


@pytest.mark.parametrize("policy_class", [Offloading, Patient])
def test_what_is_offloaded_or_in_threads_is_not(policy_class: type[Policy]) -> None:
    policy = policy_class({})
    assert told(policy) == []
    assert policy._away is None


def test_arguments_that_no_helper_can_be_sent_fail_the_test() -> None:
    with pytest.raises(CannotOffload, match="plain containers"):
        told(Unsendable({}))
