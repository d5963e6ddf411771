"""What `policy-engine run` and `policy-engine upgrade` do, with settings that are read already."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from policy_engine import __version__
from policy_engine.processes.handover import HandOverFailed, TakeOver, take_over
from policy_engine.processes.supervisor import Supervisor
from policy_engine.processes.tls_files import check_tls
from policy_engine.processes.upgrade import Outcome, upgrade
from policy_engine.settings.loading import Settings, service_links
from policy_engine.telemetry.logs import configure_logging


def run_engine(
    settings: Settings, *, reload: bool, taking_over: bool, ready_within: float, outcome: int | None = None
) -> int:
    """Run an engine until it is told to end; returns the exit status.

    With `taking_over` it begins in place of the one that runs, when it is ready within so many seconds; `outcome` is
    the descriptor by which the command that started it is told how that went. Raises ValueError, OSError, WorkerFailed,
    PoliciesUnusable or HandOverFailed when it cannot start.
    """
    command = Outcome(outcome)
    try:
        other = None
        if taking_over:
            if reload:
                raise ValueError("--reload is for development and does not go with --take-over")
            other = _take_over(_upgrade_socket(settings), ready_within, command)
        configure_logging(settings.log.level.value, settings.log.format.value)
        for variable in service_links(os.environ):
            logging.getLogger("policy_engine.settings").debug("ignored %s: Kubernetes sets it for a Service", variable)
        check_tls(settings)
        supervisor = Supervisor(settings, reload=reload, take_over=other)
        # Nothing that comes from the engine that runs, or goes to the command, stays open in other processes.
        supervisor.fork_from_here([*command.descriptors, *(other.descriptors if other is not None else ())])
        return asyncio.run(supervisor.run())
    except Exception as error:
        command.tell({"failed": str(error)})
        raise


def _take_over(path: Path, ready_within: float, command: Outcome) -> TakeOver:
    other = take_over(path, __version__)
    other.seconds, other.wanted = ready_within, lambda: command.awaited
    other.done = lambda: command.tell({"serves": os.getpid(), "before": other.pid})
    if command.given:
        other.adopt_output()
    else:
        other.forget_output()
    return other


def upgrade_engine(settings: Settings, arguments: Sequence[str], ready_within: float) -> tuple[int, str]:
    """Start an engine with `arguments` in place of the one that runs; returns exit status and what happened.

    Raises HandOverFailed when the settings have no engine hand over.
    """
    _upgrade_socket(settings)
    return upgrade(arguments, ready_within)


def _upgrade_socket(settings: Settings) -> Path:
    if settings.upgrade.socket is None:
        raise HandOverFailed("upgrade.socket is off, so that no engine hands over: set it, and restart once")
    return settings.upgrade.socket
