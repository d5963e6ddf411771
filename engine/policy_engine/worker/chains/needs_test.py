"""What a chain needs of Envoy: one rule for compiled chains and for definitions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.kernel.routes import configured_mode
from policy_engine.sdk import Policy
from policy_engine.sdk.hooks import HOOKS, Phase, phases_of
from policy_engine.worker.chains.needs import (
    NOTHING_ASKED,
    Asked,
    BodyMode,
    Part,
    asked_by,
    expressions_in,
    needs_of,
    slowest_answer,
)
from testsupport.chains import engine, entry

_NAMES = [hook.name for hook in HOOKS]
CHAINS = st.lists(
    st.tuples(
        st.sets(st.sampled_from(_NAMES), min_size=1, max_size=4),
        st.sets(st.sampled_from(list(Phase)), max_size=3),
        st.sampled_from([0.5, 1.0, 4.0]),
    ),
    min_size=1,
    max_size=4,
)


def made(number: int, hooks: set[str], idle: set[Phase]) -> type[Policy]:
    """A policy with these hooks of which some have no work."""

    def init(self: Any, parameters: Any) -> None:
        self.idle_phases = {phase.value for phase in idle}

    return type(f"P{number}", (Policy,), {"__init__": init, **{hook: lambda *_: None for hook in hooks}})


@settings(deadline=None)
@given(CHAINS)
def test_definitions_ask_for_what_the_compiled_chain_needs_or_more(chain: list[Any]) -> None:
    classes = [made(number, hooks, idle) for number, (hooks, idle, _) in enumerate(chain)]
    entries = [entry(one, timeout=timeout) for one, (_, _, timeout) in zip(classes, chain, strict=True)]
    compiled = engine(*entries, classes=classes).kernel.snapshot.chains["r"].needs  # type: ignore[union-attr] # active
    defined = needs_of(
        [Part(one, phases_of(one), timeout) for one, (_, _, timeout) in zip(classes, chain, strict=True)]
    )
    assert defined.slowest_answer >= compiled.slowest_answer
    for name in ("request_trailers", "response_headers", "response_trailers"):
        assert getattr(defined, name) >= getattr(compiled, name), name
    for name in ("request_body", "response_body"):
        if getattr(defined, name) is BodyMode.NONE:
            assert getattr(compiled, name) is BodyMode.NONE
        if getattr(defined, name) is BodyMode.STREAMED:
            assert getattr(compiled, name) in (BodyMode.NONE, BodyMode.STREAMED)
    if all(not idle for _, idle, _ in chain):
        assert defined == compiled


@settings(deadline=None)
@given(CHAINS)
def test_a_hook_runs_only_in_phases_that_envoy_is_asked_for(chain: list[Any]) -> None:
    classes = [made(number, hooks, idle) for number, (hooks, idle, _) in enumerate(chain)]
    compiled = engine(*classes).kernel.snapshot.chains["r"]  # type: ignore[union-attr] # active
    mode = configured_mode(compiled.needs)
    for side in ("request", "response"):
        body = getattr(mode, f"{side}_body_mode")
        assert bool(getattr(compiled, f"{side}_body")) == (body != mode.NONE)
        assert bool(getattr(compiled, f"{side}_chunks")) == (body == mode.FULL_DUPLEX_STREAMED)
        if getattr(compiled, f"{side}_trailers") or body != mode.NONE:
            assert getattr(mode, f"{side}_trailer_mode") == mode.SEND
    if compiled.response_headers or compiled.response_trailers or mode.response_body_mode != mode.NONE:
        assert mode.response_header_mode == mode.SEND


@pytest.mark.parametrize(
    ("timeouts", "seconds"),
    [
        ([], 0),
        ([({Phase.REQUEST_HEADERS}, 1), ({Phase.REQUEST_HEADERS}, 2)], 3),
        ([({Phase.REQUEST_HEADERS}, 1), ({Phase.RESPONSE_HEADERS}, 2)], 2),
        ([({Phase.REQUEST_HEADERS, Phase.REQUEST_BODY}, 2)], 4),
        ([({Phase.RESPONSE_BODY}, 2), ({Phase.RESPONSE_TRAILERS}, 3)], 7),
        ([({Phase.RESPONSE_BODY}, 2), ({Phase.RESPONSE_TRAILERS}, 3), ({Phase.RESPONSE_HEADERS}, 1)], 7),
        ([(set(Phase), 5)], 10),
        ([({Phase.RESPONSE_HEADERS}, 4), ({Phase.REQUEST_HEADERS}, 1)], 5),
        ([({Phase.RESPONSE_HEADERS, Phase.RESPONSE_BODY}, 4), ({Phase.REQUEST_HEADERS}, 1)], 9),
        ([({Phase.RESPONSE_HEADERS}, 4), ({Phase.RESPONSE_HEADERS}, 1)], 9),
        ([(set(Phase), 5), (set(Phase), 1)], 22),
    ],
)
def test_the_slowest_answer(timeouts: list[tuple[set[Phase], float]], seconds: float) -> None:
    assert slowest_answer((frozenset(phases), timeout) for phases, timeout in timeouts) == seconds


def test_expressions_among_parameters_ask_wherever_they_stand() -> None:
    mtls, geo = 'request.attributes["connection.mtls"]', 'request.envoy_metadata["geo"].country == "CH"'
    parameters = {"rules": [{"when": mtls}, {"when": "request.path"}, {"deep": [[{"x": geo}]], "n": 1}], "other": None}
    asked = Asked(frozenset({"connection.mtls"}), frozenset({"geo"}))
    assert asked_by(expressions_in(parameters)) == asked
    for text in ("", "request.attributes", "see request.attributes[", "x" * 10_000):
        assert asked_by(expressions_in([text])) == NOTHING_ASKED
    assert list(expressions_in({"keys": [{"client": "a"}] * 1000})) == []
