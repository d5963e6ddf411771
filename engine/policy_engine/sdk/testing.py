"""The test kit (R-35): run a policy or a chain in a plain unit test, without Envoy.

This is its face; the kit itself is `policy_engine.kit`, a package apart because a policy at work must not load it. The
chain is compiled and run by the engine, to which the kit sends what Envoy would send. What the engine would treat as a
policy's failure is raised as an error here.

    from policy_engine.sdk.testing import load_policy, request, response, run

    def test_adds_the_header() -> None:
        outcome = run(load_policy(__file__, {"name": "x-a", "value": "1"}), request("GET", "/"))
        assert outcome.request.headers["x-a"] == "1"
"""

from policy_engine.kit.chain import entry
from policy_engine.kit.held_time import HeldTimeWarning
from policy_engine.kit.loading import load_policy, policy_class
from policy_engine.kit.making import request, response
from policy_engine.kit.outcome import Outcome, Step
from policy_engine.kit.running import run, run_async

__all__ = [
    "HeldTimeWarning",
    "Outcome",
    "Step",
    "entry",
    "load_policy",
    "policy_class",
    "request",
    "response",
    "run",
    "run_async",
]
