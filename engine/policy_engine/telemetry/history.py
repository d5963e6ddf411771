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
MOST_NAMES = 20
"""Of the routes that a change added, removed or changed; others are counted."""

Change = tuple[str, tuple[str, ...], int]
"""What was done to routes, the keys of some, and how many more there are."""


@dataclass(frozen=True, slots=True)
class ConfigurationEvent:
    """One attempt to change the configuration. `problems` is empty when it became active. `time` is Unix seconds.

    `changes` say what is different from what was active before, nothing for the first.
    """

    time: float
    version: str
    source: str
    problems: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()

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
            "changes": {kind: {"routes": list(names), "more": more} for kind, names, more in self.changes},
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
        changes = () if self.active is None else differences(self.active, spec)
        self.active, self.version, self.since = spec, version, time.time()
        self.accepted += 1
        self.events.append(ConfigurationEvent(self.since, version, source, changes=changes))

    def reject(self, source: str, problems: Sequence[str], version: str = "") -> None:
        """Note that a configuration was refused; what was active stays."""
        event = ConfigurationEvent(time.time(), version, source, tuple(problems))
        self.rejections += 1
        self.last_rejection = event
        self.events.append(event)


def differences(before: ChainsSpec, after: ChainsSpec) -> tuple[Change, ...]:
    """Return which routes were added, removed and changed; nothing where all is the same."""
    old, new = ({route.route_key: route for route in one.routes} for one in (before, after))
    kinds = {
        "added": [key for key in new if key not in old],
        "removed": [key for key in old if key not in new],
        "changed": [key for key, route in new.items() if key in old and old[key] != route],
    }
    return tuple(
        (kind, tuple(keys[:MOST_NAMES]), max(0, len(keys) - MOST_NAMES)) for kind, keys in kinds.items() if keys
    )
