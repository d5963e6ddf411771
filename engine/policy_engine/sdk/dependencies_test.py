"""What is known of the servers that policies ask: one record each, whoever asks, and the worst of what processes know."""

from __future__ import annotations

import gc
from dataclasses import replace

from policy_engine.sdk import dependency
from policy_engine.sdk.dependencies import DependencyState, dependency_states, worst_states


def states() -> dict[str, DependencyState]:
    gc.collect()
    return {one.name: one for one in dependency_states() if one.kind == "test"}


def test_a_server_is_up_down_and_up_again() -> None:
    one = dependency("test", "a:1")
    assert (states()["a:1"].up, states()["a:1"].errors) == (None, 0)
    one.failed("ConnectionError")
    one.failed("Timeout\nError " + "x" * 1000)
    state = states()["a:1"]
    assert (state.up, state.errors, state.reason[:15], len(state.reason)) == (False, 2, "Timeout Error x", 200)
    assert state.failing_seconds > 0
    one.answered()
    assert replace(states()["a:1"], reason="") == DependencyState("test", "a:1", True, 0.0, 2, "")


def test_two_that_ask_one_server_share_what_is_known_and_it_goes_with_the_last() -> None:
    one, other = dependency("test", "b:1"), dependency("test", "b:1")
    one.failed("refused")
    other.answered()
    assert one.state.up
    del one
    assert "b:1" in states()
    del other
    assert "b:1" not in states()


def test_an_outage_that_one_process_sees_is_an_outage() -> None:
    def state(up: bool | None, seconds: float = 0.0, errors: int = 0, reason: str = "") -> DependencyState:
        return DependencyState("redis", "r", up, seconds, errors, reason)

    down, longer = state(False, 2, 3, "short"), state(False, 9, 1, "long")
    assert worst_states([state(True, errors=4), down, state(None)]) == [state(False, 2, 7, "short")]
    assert worst_states([down, longer]) == worst_states([longer, down]) == [state(False, 9, 4, "long")]
    assert worst_states([state(None), state(True)]) == [state(True)]
    assert worst_states([]) == []
