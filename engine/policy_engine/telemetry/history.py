"""What happened to the configuration: accepted and refused versions, for the admin pages and the metrics (R-53).

A separate module because file mode and xDS mode write it and the admin endpoint reads it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from policy_engine.worker.chains.spec import ChainsSpec

KEPT = 50


@dataclass(frozen=True, slots=True)
class ConfigurationEvent:
    """One attempt to change the configuration. `problems` is empty when it became active. `time` is Unix seconds."""

    time: float
    version: str
    source: str
    problems: tuple[str, ...] = ()

    def as_document(self) -> dict[str, object]:
        """Return the event as JSON data."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.time))
        outcome = "rejected" if self.problems else "active"
        return {
            "time": moment,
            "version": self.version,
            "source": self.source,
            "outcome": outcome,
            "problems": list(self.problems),
        }


@dataclass(slots=True)
class ConfigurationHistory:
    """The last events, what is active, and how many were refused since the start."""

    events: deque[ConfigurationEvent] = field(default_factory=lambda: deque(maxlen=KEPT))
    active: ChainsSpec | None = None
    version: str = ""
    since: float = 0.0
    accepted: int = 0
    rejections: int = 0
    last_rejection: ConfigurationEvent | None = None

    def accept(self, spec: ChainsSpec, version: str, source: str) -> None:
        """Note that `spec` is active in every worker."""
        self.active, self.version, self.since = spec, version, time.time()
        self.accepted += 1
        self.events.append(ConfigurationEvent(self.since, version, source))

    def reject(self, source: str, problems: Sequence[str], version: str = "") -> None:
        """Note that a configuration was refused; what was active stays."""
        event = ConfigurationEvent(time.time(), version, source, tuple(problems))
        self.rejections += 1
        self.last_rejection = event
        self.events.append(event)
