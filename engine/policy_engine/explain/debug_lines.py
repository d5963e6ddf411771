"""At log level `debug`: a line for each policy that decided something, and for each request."""

from __future__ import annotations

import logging

from policy_engine.explain.record import HookRecord
from policy_engine.explain.recorder import Ended, Wanted
from policy_engine.sdk import Request

logger = logging.getLogger("policy_engine.hooks")


class DebugLines:
    """Wants every request while its logger is at `debug`."""

    @property
    def watching(self) -> bool:
        """Whether debug lines are logged."""
        return logger.isEnabledFor(logging.DEBUG)

    def wants(self, request: Request) -> Wanted | None:
        """See `Watcher`."""
        return _WANTED

    def dropped(self) -> None:
        """See `Watcher`."""


def _log(ended: Ended) -> None:
    record = ended.record
    facts = {"route": record.route, "request_id": record.request_id, "trace_id": record.trace_id}
    for hook in record.hooks:
        logger.debug(
            "policy %s %s %s: %s%s",
            hook.policy,
            hook.version,
            hook.hook,
            _outcome(hook),
            "" if hook.milliseconds is None else f" in {hook.milliseconds:g} ms",
            extra=facts | {"event": "hook", "policy": hook.policy, "policy_version": hook.version},
        )
    logger.debug(
        "request %s%s%s",
        record.verdict,
        "" if record.status is None else f" with {record.status}",
        f" ({record.reason})" if record.reason else "",
        extra=facts | {"event": "request"},
    )


def _outcome(hook: HookRecord) -> str:
    status = "" if hook.status is None else f" with {hook.status}"
    reason = hook.reason or hook.failure
    return f"{hook.decision}{status}{f' ({reason})' if reason else ''}"


_WANTED = Wanted(_log)
