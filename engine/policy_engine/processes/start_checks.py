"""What is looked at before an engine starts: settings that do not go together with how it runs, files, conditions."""

from __future__ import annotations

from pathlib import Path

from policy_engine.explain.live import Filter
from policy_engine.settings.forms import LOG, OTLP, WORKER_PLACE
from policy_engine.settings.model import ConfigurationSource, Decisions, Settings
from policy_engine.worker.conditions.condition import ConditionRefused


def check_reload(settings: Settings) -> None:
    """Raise ValueError for settings under which policies cannot be loaded anew while the engine runs."""
    wrong = (
        (settings.policies.directory is None, "needs `policies.directory`, whose files it watches"),
        (settings.configuration is ConfigurationSource.XDS, "works with chain files, not with a management server"),
        (settings.transport.value != "native", "needs `transport: native`"),
        (
            any(WORKER_PLACE in one for one in settings.listen),
            f"needs addresses that worker processes share, without {WORKER_PLACE}",
        ),
    )
    for found, what in wrong:
        if found:
            raise ValueError(f"--reload {what}")


def check_decision_log(settings: Settings) -> None:
    """Raise ValueError for a condition that is none, OSError for a file that cannot be written."""
    log = settings.decision_log
    if log.condition is not None:
        try:
            Filter(where=log.condition).condition()
        except ConditionRefused as refused:
            raise ValueError(f"decision_log.condition: {refused}") from None
    if log.decisions is not Decisions.OFF and log.output not in (LOG, OTLP):
        with Path(log.output).open("a"):
            pass
