"""What one client has asked for, been sent and answered, for one resource type of one stream.

A separate module because the two variants of the protocol differ in how they say these things, not in what they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from policy_control_plane.resources import ENDPOINTS, ROUTES, Resource, Resources, version_of

WILDCARD = "*"
_UNKNOWN = ""
MAX_ERROR = 8_000


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A response that has not been answered yet."""

    nonce: str
    version: str
    before: tuple[Resource, ...]
    """What it changes or removes, as the client held it; an empty body where it held nothing."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A NACK: what was refused and why."""

    version: str
    message: str


@dataclass(slots=True)
class Subscription:
    """The state of one type on one stream.

    `sent` is what the client is believed to hold; a version of "" stands for "something, not known what". `again` are
    names that must be sent although they have not changed, `missing` names to be told as not existing (delta).
    """

    type_url: str
    names: set[str] = field(default_factory=set)
    wildcard: bool = False
    named_once: bool = False
    answered: bool = False
    sent: dict[str, Resource] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    outstanding: Outstanding | None = None
    accepted: str = ""
    refusal: Refusal | None = None
    nonces: int = 0

    def wants(self, name: str) -> bool:
        """Whether the client subscribed to `name`."""
        return self.wildcard or name in self.names

    def wanted(self, resources: Resources) -> dict[str, Resource]:
        """Return those of `resources` that the client subscribed to."""
        if self.wildcard:
            return dict(resources)
        return {name: resources[name] for name in sorted(self.names & resources.keys())}

    def changed(self, desired: Resources) -> list[Resource]:
        """Return what of `desired` has to be sent."""
        return [one for name, one in desired.items() if name in self.again or self._differs(one)]

    def removed(self, desired: Resources) -> list[str]:
        """Return names that the client holds and shall not.

        Endpoints and routes go with the cluster or listener that needed them, when the client unsubscribes.
        """
        return [] if self.type_url in (ENDPOINTS, ROUTES) else sorted(self.sent.keys() - desired.keys())

    def refused(self, desired: Resources) -> bool:
        """Whether the client has refused exactly this set, so that sending it again would change nothing."""
        return self.refusal is not None and self.refusal.version == version_of(desired) and not self.again

    def send(self, desired: Resources, changed: Iterable[Resource], removed: Iterable[str]) -> Outstanding:
        """Note that a response goes out; return what to put in it and to wait for."""
        self.nonces += 1
        before = [self.sent.pop(name) for name in removed if name in self.sent]
        for one in changed:
            before.append(self.sent.get(one.name) or Resource(one.name, _UNKNOWN, b""))
            self.sent[one.name] = one
            self.again.discard(one.name)
        self.answered = True
        self.missing.clear()
        self.outstanding = Outstanding(str(self.nonces), version_of(desired), tuple(before))
        return self.outstanding

    def answer(self, nonce: str, error: str | None) -> bool:
        """Take an ACK (`error` None) or NACK; return False when it is about no response that is waited for."""
        waited = self.outstanding
        if waited is None or waited.nonce != nonce:
            return False
        self.outstanding = None
        if error is None:
            self.accepted, self.refusal = waited.version, None
            return True
        self.refusal = Refusal(waited.version, error[:MAX_ERROR])
        # What the client made of it is not known: send these again with the next change.
        for one in waited.before:
            self.sent[one.name] = Resource(one.name, _UNKNOWN, one.body)
        return True

    def forget(self, names: Iterable[str]) -> None:
        """The client has dropped these, or asks for them anew."""
        for name in names:
            self.sent.pop(name, None)
            self.again.discard(name)

    def _differs(self, one: Resource) -> bool:
        known = self.sent.get(one.name)
        return known is None or known.version != one.version
