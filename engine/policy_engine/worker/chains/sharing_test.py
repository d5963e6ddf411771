"""Shares of requests: the same everywhere, of the size that was written, and of users rather than of requests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from policy_engine.sdk import Headers, Request, Response
from policy_engine.worker.chains.sharing import Draw, InShare
from policy_engine.worker.chains.spec import WHOLE, Share

BY_USER = 'request.headers["x-user"]'


def request(user: str | None = None, request_id: str = "") -> Request:
    return Request(Headers.of({} if user is None else {"x-user": user}), request_id=request_id)


def percent(share: float) -> int:
    return round(share * WHOLE / 100)


@pytest.mark.parametrize("share", [0, 0.1, 5, 50, 100])
def test_a_share_is_as_large_as_it_says(share: float) -> None:
    gate = InShare(Share(0, percent(share), BY_USER), "p")
    inside = sum(gate.evaluate(request(f"user-{n}"), None) for n in range(20_000))
    assert abs(inside / 200 - share) < 1
    assert share not in (0, 100) or inside == share * 200


def test_a_user_stays_inside_when_the_share_grows() -> None:
    users = [request(f"user-{n}") for n in range(2_000)]
    shares = [{n for n, one in enumerate(users) if InShare(Share(0, percent(p), BY_USER), "p").evaluate(one, None)}
              for p in (5, 10, 60)]  # fmt: skip
    assert shares[0] < shares[1] < shares[2]


def test_exactly_one_of_the_versions_runs_for_each_request() -> None:
    gates = [InShare(Share(low, high, BY_USER), "p") for low, high in ((0, 50_000), (50_000, 60_000), (60_000, WHOLE))]
    for user in (None, "", *(f"user-{n}" for n in range(500))):
        for request_id in ("", "id-1", "id-2"):
            one = request(user, request_id)
            assert sum(gate.evaluate(one, None) for gate in gates) == 1


def test_without_the_key_the_request_is_drawn_by_its_id_and_not_all_on_one_side() -> None:
    gate = InShare(Share(0, percent(50), BY_USER), "p")
    for user in (None, ""):
        found = Counter(gate.evaluate(request(user, f"id-{n}"), None) for n in range(1_000))
        assert 400 < found[True] < 600
    assert [gate.evaluate(request(None, "id-1"), None) for _ in range(5)] == 5 * [
        gate.evaluate(request(None, "id-1"), None)
    ]


def test_a_request_without_any_key_has_one_place_for_its_whole_stream() -> None:
    one = request()
    places = {Draw("p", "").of(one) for _ in range(10)}
    assert len(places) == 1
    assert len({Draw("p", "").of(request()) for _ in range(50)}) > 40


def test_other_policies_choose_other_users() -> None:
    users = [request(f"user-{n}") for n in range(2_000)]
    both = sum(
        InShare(Share(0, percent(50), BY_USER), "p").evaluate(one, None)
        and InShare(Share(0, percent(50), BY_USER), "q").evaluate(one, None)
        for one in users
    )
    assert 400 < both < 600


@pytest.mark.parametrize(
    "by",
    [BY_USER, "request.headers['x-user'] + request.path", "metadata.user", "request.path", "size(request.path)"],
)
def test_a_key_is_any_expression(by: str) -> None:
    one = request("a", "id")
    one.metadata["user"] = 17
    assert 0 <= Draw("p", by).of(one) < WHOLE


class Never:
    text = "false"
    uses_response = False

    def evaluate(self, request: Request, response: Response | None) -> bool:
        return False


def test_a_condition_holds_besides() -> None:
    assert not InShare(Share(0, WHOLE), "p", Never()).evaluate(request("a", "id"), None)


PLACES = """
from policy_engine.sdk import Headers, Request
from policy_engine.worker.chains.sharing import Draw
draw = Draw("jwt-validation", 'request.headers["x-user"]')
print([draw.of(Request(Headers.of({"x-user": user}))) for user in ("ann", "bob", "\\u00fc", "a" * 5000)])
"""
KNOWN = "[905909, 539123, 94021, 994578]"


def test_the_places_are_the_same_in_every_process_and_release() -> None:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    output = subprocess.run([sys.executable, "-c", PLACES], env=environ, check=True, capture_output=True, text=True)
    assert output.stdout.strip() == KNOWN
