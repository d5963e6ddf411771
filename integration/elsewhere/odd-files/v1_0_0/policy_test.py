"""The policy can be made and lets a request pass."""

from policy_engine.sdk.testing import load_policy


def test_it_is_a_policy() -> None:
    load_policy(__file__)
