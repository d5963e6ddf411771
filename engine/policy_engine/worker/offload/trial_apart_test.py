"""Constructors on trial in a process apart: what hangs or crashes there, in C code too, is a refusal and nothing else."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from policy_engine.worker.offload.trial_apart import construct_apart
from policy_engine.worker.policies.loader import load_policy
from policy_engine.worker.policies.registry import PolicyDefinition
from policy_engine.worker.policies.trial import Refusal, Trial

MANIFEST = """
name: sample
version: v1.0.0
description: x
entrypoint: policy:Sample
phases: [request_headers]
"""
CODE = """
import os, re, signal, sys, time
from collections import deque
from itertools import repeat
from policy_engine.sdk import ParameterError, Policy

class Sample(Policy):
    def __init__(self, parameters):
        self.how = parameters["how"]
        {
            "good": lambda: None,
            "refuses": lambda: refuse(),
            "raises": lambda: 1 / 0,
            "exits": lambda: sys.exit("bye"),
            "ends": lambda: os._exit(3),
            "crashes": lambda: os.kill(os.getpid(), signal.SIGSEGV),
            "pattern": lambda: re.match(r"(a+)+$", "a" * 60 + "b"),
            "loop in C": lambda: deque(repeat(0), maxlen=0),
            "loop": lambda: loop(),
            "sleeps": lambda: time.sleep(1000),
            "pid": lambda: refuse(str(os.getpid())),
            "close hangs": lambda: None,
            "breakpoint": lambda: breakpoint(),
        }[self.how]()

    def on_request_headers(self, request): ...

    def close(self):
        if self.how == "close hangs":
            deque(repeat(0), maxlen=0)

def refuse(text="no such thing"):
    raise ParameterError(text, "/how")

def loop():
    while True:
        pass
"""


@pytest.fixture
def definition(tmp_path: Path) -> PolicyDefinition:
    (tmp_path / "policy.yaml").write_text(MANIFEST)
    (tmp_path / "policy.py").write_text(CODE)
    found, diagnostics = load_policy(tmp_path)
    assert found is not None, diagnostics
    return found


def tried(definition: PolicyDefinition, *hows: str, seconds: float = 5.0) -> list[Refusal | None]:
    return construct_apart([Trial(definition, {"how": how}) for how in hows], seconds)


def test_what_the_policy_says_comes_back_as_it_is(definition: PolicyDefinition) -> None:
    good, refuses, raises, exits = tried(definition, "good", "refuses", "raises", "exits")
    assert good is None
    assert refuses == Refusal("no such thing", "/how")
    assert raises is not None
    assert raises.reason.startswith("failed in its constructor with ZeroDivisionError: division by zero (")
    assert exits is not None
    assert "SystemExit: bye" in exits.reason


def test_all_are_tried_in_one_process_that_is_not_this_one(definition: PolicyDefinition) -> None:
    pids = {one.reason for one in tried(definition, "pid", "pid") if one is not None}
    assert len(pids) == 1
    assert str(os.getpid()) not in pids
    assert not Path(f"/proc/{pids.pop()}").exists()


@pytest.mark.parametrize("how", ["pattern", "loop in C", "loop", "sleeps"])
def test_what_hangs_is_refused_with_its_place_while_others_run(definition: PolicyDefinition, how: str) -> None:
    ticks = [0]
    over = threading.Event()

    def count() -> None:
        while not over.wait(0.01):
            ticks[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    began = time.monotonic()
    try:
        hangs, good = tried(definition, how, "good", seconds=0.3)
    finally:
        over.set()
        thread.join()
    assert time.monotonic() - began < 30
    assert ticks[0] > 20, "this process went on meanwhile"
    assert good is None
    assert hangs is not None
    assert not hangs.expected
    assert "its constructor did not return within 0.3 s" in hangs.reason
    assert "policy.py:" in hangs.reason


def test_a_breakpoint_that_nobody_could_answer_is_passed_by(definition: PolicyDefinition) -> None:
    assert tried(definition, "breakpoint") == [None]


@pytest.mark.parametrize(("how", "end"), [("crashes", "by SIGSEGV"), ("ends", "with exit status 3")])
def test_a_crash_is_a_refusal(definition: PolicyDefinition, how: str, end: str) -> None:
    crashed, good = tried(definition, how, "good")
    assert crashed == Refusal(f"ended the process in which it was tried ({end})", expected=False)
    assert good is None


def test_a_load_ends_however_many_hang(definition: PolicyDefinition) -> None:
    refusals = tried(definition, *["loop in C"] * 5, seconds=0.1)
    assert [one is not None and "was not tried" in one.reason for one in refusals] == [False] * 3 + [True] * 2


def test_a_close_that_hangs_in_c_code_ends_too(definition: PolicyDefinition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policy_engine.worker.offload.trial_apart.CLOSE_SECONDS", 0.2)
    (hangs,) = tried(definition, "close hangs", seconds=0.3)
    assert hangs is not None
    assert "returned, but close did not within 0.2 s and could not be broken off" in hangs.reason


def test_code_that_is_gone_since_it_was_loaded(definition: PolicyDefinition) -> None:
    source: Any = definition.source
    (source / "policy.py").write_text("import no_such_module\n")
    (refusal,) = tried(definition, "good")
    assert refusal is not None
    assert "no_such_module" in refusal.reason
