"""What a policy instance keeps for a request: its own, and gone with the request."""

from __future__ import annotations

import gc
import weakref

from policy_engine.sdk import Policy, Request, Response
from policy_engine.sdk.testing import request, run


class Counting(Policy):
    def on_request_headers(self, request: Request) -> None:
        state = self.state(request)
        assert not state, "empty at first, also for the second entry of the same policy"
        state["seen"] = [id(self)]

    def on_response_headers(self, request: Request, response: Response) -> None:
        assert self.state(request)["seen"] == [id(self)]


def test_two_entries_of_one_policy_do_not_see_each_other_s_state() -> None:
    outcome = run([Counting({}), Counting({})], request())
    assert outcome.reached_upstream
    assert dict(outcome.metadata) == {}


def test_the_state_goes_with_the_request() -> None:
    class Kept:
        pass

    policy, sent, kept = Counting({}), request(), Kept()
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
