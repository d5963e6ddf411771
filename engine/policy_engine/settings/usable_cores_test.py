"""Cores are counted on every system, and nothing else in the product asks what only Linux can answer."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import policy_engine
from policy_engine.processes.worker_options import worker_count
from policy_engine.settings.usable_cores import usable_cores

PACKAGE = Path(policy_engine.__file__).parent

LINUX_ONLY = {
    "sched_getaffinity": {"settings/usable_cores.py"},
    "sched_setaffinity": set[str](),
    "memfd_create": {"processes/flight_record.py"},
    "process_cpu_count": set[str](),
    "posix_fadvise": set[str](),
    "eventfd": set[str](),
    "pidfd_open": {"processes/fork_server.py"},
    "pipe2": set[str](),
    "epoll": set[str](),
    "sigtimedwait": set[str](),
    "SIGRTMIN": set[str](),
    "TCP_USER_TIMEOUT": set[str](),
    "TCP_KEEPIDLE": set[str](),
    "O_TMPFILE": set[str](),
    "MADV_DONTFORK": set[str](),
}
"""What the standard library has on Linux, or on some Pythons, alone, and the modules that look first (`hasattr`)."""


def test_systems_that_do_not_tell_what_a_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert usable_cores() == worker_count("auto") == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def names() -> Iterator[tuple[str, str]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        if not file.name.endswith("_test.py"):
            place = file.relative_to(PACKAGE).as_posix()
            for node in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(node, ast.Attribute):
                    yield node.attr, place


def test_what_only_some_systems_have_is_used_where_it_is_looked_for_first() -> None:
    found = {(name, place) for name, place in names() if name in LINUX_ONLY}
    assert found == {(name, place) for name, places in LINUX_ONLY.items() for place in places}
    for _, place in found:
        assert "hasattr(os, " in (PACKAGE / place).read_text(encoding="utf-8")
