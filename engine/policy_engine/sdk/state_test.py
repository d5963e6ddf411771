"""What a policy instance keeps for a request: its own, typed, and gone with the stream."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field

from policy_engine.sdk import Policy, Request, Response
from policy_engine.sdk.testing import request, run
from testsupport import envoy_messages
from testsupport.chains import engine


@dataclass
class Tally:
    """What one instance counts for one request."""

    hooks: list[str] = field(default_factory=list)


class Counting(Policy):
    def on_request_headers(self, request: Request) -> None:
        state = self.state(request)
        assert not state, "empty at first, also for the second entry of the same policy"
        state["seen"] = [id(self)]
        tally = self.state(request, Tally)
        assert tally.hooks == []
        tally.hooks.append("request")

    def on_response_headers(self, request: Request, response: Response) -> None:
        assert self.state(request)["seen"] == [id(self)]
        assert self.state(request, Tally).hooks == ["request"]


def test_two_entries_of_one_policy_do_not_see_each_other_s_state() -> None:
    outcome = run([Counting({}), Counting({})], request())
    assert outcome.reached_upstream
    assert dict(outcome.metadata) == {}


def test_the_state_goes_with_the_request() -> None:
    policy, sent, kept = Counting({}), request(), Tally()
    policy.state(sent)["kept"] = kept
    gone = weakref.ref(kept)
    del sent, kept
    gc.collect()
    assert gone() is None


def test_requests_do_not_share_state() -> None:
    policy = Counting({})
    first, second = request(), request()
    policy.state(first)["a"] = 1
    assert policy.state(second) == {}
    assert policy.state(first) == {"a": 1}


class Keeping(Policy):
    """Keeps hold of its requests, as a policy should not."""

    seen: list[Request] = []  # noqa: RUF012 - of the class, for the test to look at
    at_end: list[Tally] = []  # noqa: RUF012

    def on_request_headers(self, request: Request) -> None:
        self.seen.append(request)
        self.state(request, Tally).hooks.append("request")

    def on_stream_end(self, request: Request) -> None:
        self.at_end.append(self.state(request, Tally))


def test_the_state_is_dropped_at_the_end_of_the_stream_after_the_last_hook() -> None:
    session = engine(Keeping).session()
    session.receive(envoy_messages.request_headers("r"))
    (sent,) = Keeping.seen
    session.close()
    assert [tally.hooks for tally in Keeping.at_end] == [["request"]]
    assert sent._states is None
