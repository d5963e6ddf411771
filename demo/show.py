"""The course of the demo: the requests one after another, then an edit of the chain file, then a broken edit."""

from __future__ import annotations

import time
from collections.abc import Callable

from demo.cases import Case, cases, public_route
from demo.house import House
from demo.outcome import judge
from demo.report import Report
from integration.harness import client
from integration.harness.processes import ProcessError

_TAKES_EFFECT_S = 20.0
_GATEWAY, _EDITED = "policy-engine", "edited-while-running"


def show(house: House, report: Report) -> int:
    """Send every request, report each, and return how many did not come to what they should."""
    sender = _Sender(house, report)
    for case in cases(house.issuer):
        sender.send(case)
    _edit(house, report, sender)
    _break(house, report, sender)
    report.verdict(sender.sent, sender.failed)
    return sender.failed


class _Sender:
    def __init__(self, house: House, report: Report) -> None:
        self._house = house
        self._report = report
        self.sent = 0
        self.failed = 0

    def send(self, case: Case) -> None:
        """Send one request, report it and count it."""
        self._house.upstream.arrived()
        before = self._house.runs()
        reply = client.send(self._house.envoy.port, "GET", case.target, headers=case.sent_headers())
        arrived = self._house.upstream.arrived()
        outcome = judge(case, reply, arrived[-1] if arrived else None, self._house.ran_since(before))
        self.sent += 1
        self.failed += bool(outcome.faults)
        self._report.outcome(self.sent, outcome)


def _edit(house: House, report: Report, sender: _Sender) -> None:
    began = time.monotonic()
    house.chains.write_text(house.chains.path.read_text().replace(f"x-gateway: {_GATEWAY}", f"x-gateway: {_EDITED}"))
    _wait(house, lambda: _gateway_now(house) == _EDITED, "the edited chain file takes effect")
    report.step(f"edited {house.chains.path}; it took effect after {1000 * (time.monotonic() - began):.0f} ms")
    sender.send(public_route(_EDITED, "the chain file was edited: the next request has it, nothing was restarted"))


def _break(house: House, report: Report, sender: _Sender) -> None:
    good = house.chains.path.read_text()
    rejections = house.rejections()
    house.chains.write_text(good.replace("x-gateway:", "x-gateway: [not, a, string]  #", 1).replace("set:", "sett:", 1))
    _wait(house, lambda: house.rejections() > rejections, "the broken chain file is refused")
    report.step("broke the chain file; the engine refused it as a whole and says why:")
    for line in house.last_rejection():
        report.step(f"  {line}")
    sender.send(public_route(_EDITED, "the chain file is broken: the last good one stays"))
    house.chains.write_text(good)


def _gateway_now(house: House) -> str | None:
    house.upstream.arrived()
    client.send(house.envoy.port, "GET", "/public")
    return house.upstream.arrived()[-1].header("x-gateway")


def _wait(house: House, holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _TAKES_EFFECT_S
    while not holds():
        if time.monotonic() > deadline:
            raise ProcessError(f"not seen within {_TAKES_EFFECT_S:g} s: {what}\n{house.engine.log()}")
        time.sleep(0.02)
