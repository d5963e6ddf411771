"""What the control plane says a chain needs, with and without knowing the policies."""

from __future__ import annotations

from typing import Any

from policy_control_plane.chain_needs import chain_needs, longest_answer
from policy_engine.sdk import Policy
from policy_engine.worker.chains.needs import BodyMode
from policy_engine.worker.policies.registry import Registry
from testsupport.chains import define


class Body(Policy):
    def on_request_headers(self, request: Any) -> None: ...

    def on_request_body(self, request: Any) -> None: ...


class Answer(Policy):
    def on_response_headers(self, request: Any, response: Any) -> None: ...


REGISTRY = Registry([define(Body), define(Answer)])


def chain(*names: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": name, "version": "v1", **more} for name in names]


def test_one_answer_takes_what_the_engine_says_it_takes() -> None:
    # Headers and body of a request without a body are answered together.
    assert longest_answer(chain("body", "answer"), REGISTRY, 3.0) == 6.0
    assert longest_answer(chain("answer", "answer"), REGISTRY, 3.0) == 9.0  # the second answers, the first sees that
    assert longest_answer(chain("body", "answer", timeout="500ms"), REGISTRY, 3.0) == 1.0
    assert longest_answer(chain("body", enabled=False), REGISTRY, 3.0) == 0.0


def test_an_unknown_policy_counts_as_part_of_every_phase() -> None:
    assert longest_answer(chain("answer", "other"), REGISTRY, 3.0) == 12.0
    assert longest_answer(chain("body", "answer"), None, 3.0) == 18.0


def test_needs_are_known_when_all_policies_are() -> None:
    found = chain_needs(chain("body", "answer"), REGISTRY, 3.0)
    assert found is not None
    assert (found.request_body, found.response_body) == (BodyMode.BUFFERED, BodyMode.NONE)
    assert found.slowest_answer == longest_answer(chain("body", "answer"), REGISTRY, 3.0)
    assert chain_needs(chain("body", "other"), REGISTRY, 3.0) is None
    assert chain_needs(chain("body"), None, 3.0) is None


def test_entries_of_every_form_are_known() -> None:
    group = [{"any_of": [*chain("body"), *chain("answer", enabled=False)]}]
    assert chain_needs(group, REGISTRY, 3.0) == chain_needs(chain("body"), REGISTRY, 3.0)
    assert chain_needs([{"any_of": chain("body"), "enabled": False}], REGISTRY, 3.0) == chain_needs([], REGISTRY, 3.0)
    versions = [{"name": "body", "versions": {"v1": "100%"}}]
    assert chain_needs(versions, REGISTRY, 3.0) == chain_needs(chain("body"), REGISTRY, 3.0)


def test_a_body_that_shadows_alone_read_is_observed() -> None:
    found = chain_needs(chain("body", mode="shadow"), REGISTRY, 3.0)
    assert found is not None
    assert found.request_body is BodyMode.OBSERVED
    mixed = chain_needs([*chain("body", mode="shadow"), *chain("body")], REGISTRY, 3.0)
    assert mixed is not None
    assert mixed.request_body is BodyMode.BUFFERED
    group = chain_needs([{"any_of": chain("body"), "mode": "shadow"}], REGISTRY, 3.0)
    assert group == found
