"""The command `faults`: two of its scenarios, what it makes of figures, and what it writes and returns."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from integration.faults import __main__ as command
from integration.faults.report import Outcome, page
from integration.faults.scenario import Measured, Promise, Scenario, Terms
from integration.harness.steady_load import OPEN, Sent, SteadyLoad
from integration.harness.upstream import Upstream

GOOD = Measured(sent=9, failed=0, lost=0, opened=0, held=0, p99=0.01, longest=0.02, recovered=1.0, kinds={})
PROMISE = Promise(failed=2, recovered=8.0, p99=0.05)


@pytest.mark.parametrize("name", ["worker-killed", "rolling-restart"])
def test_a_scenario_runs_and_no_request_is_lost_or_unguarded(name: str) -> None:
    (scenario,) = [one for one in command.SCENARIOS if one.name == name]
    outcome = command.run(scenario, 4.0)
    found = outcome.measured
    assert found is not None, outcome.broken
    assert (found.lost, found.opened, found.wrong) == (0, 0, ()), found
    assert found.sent > 100
    assert found.failed <= (scenario.promise.failed or 0), found


def test_what_is_sent_is_told_apart() -> None:
    outcomes = ["200", "200", "500", OPEN, "no answer", "closed", "ConnectionResetError", "200"]
    sent = [Sent(at=100.0 + number, answered=100.01 + number, outcome=one) for number, one in enumerate(outcomes)]
    sent[0] = Sent(at=100.0, answered=103.0, outcome="200")
    found = Measured.of(sent, over=101.0, restored=101.5, wrong=())
    assert (found.sent, found.failed, found.lost, found.opened, found.held) == (8, 4, 3, 1, 1)
    assert found.recovered == 5.0
    assert found.kinds == {"500": 1, OPEN: 1, "no answer": 1, "closed": 1, "ConnectionResetError": 1}
    assert Measured.of(sent[:2], over=101.0, restored=109.0, wrong=()).recovered == 8.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sent": 0}, "nothing was sent"),
        ({"lost": 1}, "1 lost"),
        ({"opened": 1}, "1 passed without their chain"),
        ({"failed": 3}, "3 failed, promised 2 at most"),
        ({"recovered": 8.1}, "recovered after 8.1 s, promised 8 s"),
        ({"p99": 0.051}, "p99 51 ms, promised 50 ms"),
        ({"wrong": ("ended with 1",)}, "ended with 1"),
    ],
)
def test_every_promise_can_break(change: dict[str, object], said: str) -> None:
    assert GOOD.broken(PROMISE) == []
    assert replace(GOOD, **change).broken(PROMISE) == [said]  # type: ignore[arg-type]


def test_where_all_are_denied_no_number_is_too_large_but_none_may_be_lost() -> None:
    denied = Promise(failed=None, recovered=8.0)
    assert replace(GOOD, failed=9).broken(denied) == []
    assert replace(GOOD, failed=9, lost=1).broken(denied) == ["1 lost"]


def test_a_load_sees_what_passed_without_its_mark() -> None:
    with Upstream() as upstream:
        for headers, expected in (([("x-mark", "1")], "200"), ([], OPEN)):
            with SteadyLoad(upstream.port, "/r", 20.0, headers=headers, mark='"x-mark"') as load:
                while not load.sent:
                    time.sleep(0.01)
            assert {one.outcome for one in load.sent} == {expected}


def _stub(measured: Measured | Exception) -> Scenario:
    def run(terms: Terms) -> Measured:
        if isinstance(measured, Exception):
            raise measured
        return measured

    return Scenario(name="stub", fault="a | b", run=run, promise=PROMISE)


@pytest.mark.parametrize(
    ("measured", "status", "said"),
    [
        (GOOD, 0, "Every promise holds."),
        (replace(GOOD, lost=1, failed=1), 1, "**no**: 1 lost"),
        (OSError("no program"), 1, "did not run: OSError('no program')"),
    ],
)
def test_the_page_and_the_exit_status(
    measured: Measured | Exception,
    status: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "SCENARIOS", (_stub(measured),))
    output = tmp_path / "faults.md"
    assert command.main(["--output", str(output), "--json"]) == status
    assert said in output.read_text(encoding="utf-8")
    (found,) = json.loads(capsys.readouterr().out)["faults"]
    assert (found["name"], bool(found["broken"])) == ("stub", bool(status))


def test_the_page_has_a_line_for_each_fault_and_is_the_same_for_the_same() -> None:
    outcomes = [Outcome(scenario=_stub(GOOD), measured=GOOD, broken=())] * 2
    text = page(outcomes, {"date": "today"})
    assert text == page(outcomes, {"date": "today"})
    line = "| a &#124; b | 1 | 9 | 0 | 0 | 0 | 0 | 10 ms | 1.0 s | at most 2 failed, recovered within 8 s, p99 under 50 ms | yes |"
    assert text.count(line) == 2


def test_names_are_unique() -> None:
    names = [one.name for one in command.SCENARIOS]
    assert len(set(names)) == len(names) > 20
