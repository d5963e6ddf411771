"""Brings a new snapshot to engines and Envoys in make-before-break order (R-22, R-54).

A separate module because the order is the promise: (1) engines get new and changed chains beside all that Envoys may
still use; (2) when they have them, Envoys get clusters, endpoints, listeners and routes; (3) when those have been in
use for a while, engines lose the chains, and Envoys the clusters, that no route refers to. A change that an engine
refuses goes no further and is taken back everywhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import NoReturn

from policy_control_plane.fleet import Fleet, Judgement
from policy_control_plane.resources import CHAIN, CLUSTER, ENDPOINTS, NOTHING, Resource, Snapshot, snapshot_version

logger = logging.getLogger(__name__)

_RETIRED = (CHAIN, CLUSTER, ENDPOINTS)
"""Types whose resources others refer to."""


class Stage(StrEnum):
    """How far the newest snapshot has come."""

    NO_CONFIGURATION = "no configuration"
    ENGINES = "waiting for engines"
    ENVOYS = "waiting for Envoys"
    IN_USE = "in use"
    REFUSED_BY_ENGINE = "refused by an engine"
    REFUSED_BY_ENVOY = "refused by an Envoy"


@dataclass(frozen=True, slots=True)
class Waits:
    """How long each step waits for clients that do not answer, in seconds.

    After a start, Envoys get nothing until `expected_engines` engines are up to date, or `engines` seconds have passed;
    and engines keep chains that are not configured any more for `after_start` seconds, since an Envoy that is not
    connected yet may still send requests for them.

    `before_removal` is the time from the Envoys' ACK of routes until chains and clusters go that only the routes before
    needed: Envoy's workers follow the main thread, which answers, and a request that is with the engine has its route
    already and its cluster still to look up.
    """

    engines: float = 5.0
    envoys: float = 10.0
    after_start: float = 15.0
    expected_engines: int = 1
    before_removal: float = 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the newest snapshot is."""

    stage: Stage
    version: str = ""
    since: float = 0.0
    waiting: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()


@dataclass(slots=True)
class _Retired:
    """A resource that the configuration has no more and that requests under way may still need."""

    resource: Resource
    since: float | None = None
    """When the last Envoy had accepted routes without it (monotonic seconds); None before."""


class Rollout:
    """Give it snapshots with `offer`; `run` brings the newest one out."""

    def __init__(self, fleet: Fleet, waits: Waits | None = None) -> None:
        self._fleet = fleet
        self._waits = waits or Waits()
        self._newest: Snapshot | None = None
        self._offered = asyncio.Event()
        self._given: Snapshot = MappingProxyType({})
        self._retired: dict[tuple[str, str], _Retired] = {}
        self.progress = Progress(Stage.NO_CONFIGURATION)

    def offer(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the one to bring out, in place of any that is on its way."""
        self._newest = snapshot
        self._offered.set()

    async def run(self) -> NoReturn:
        """Bring out whatever is offered, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._forget_the_past())
            group.create_task(self._follow())
        raise AssertionError("unreachable: snapshots are followed for ever")

    async def _follow(self) -> NoReturn:
        while True:
            await self._offered.wait()
            self._offered.clear()
            snapshot = self._newest
            if snapshot is None:
                continue
            step = asyncio.create_task(self._bring_out(snapshot))
            newer = asyncio.create_task(self._offered.wait())
            try:
                await asyncio.wait({step, newer}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                step.cancel()
                newer.cancel()
                await asyncio.gather(step, newer, return_exceptions=True)
            if not step.cancelled() and (error := step.exception()) is not None:
                logger.error("a snapshot could not be brought out", exc_info=error)

    async def _bring_out(self, snapshot: Snapshot) -> None:
        version = snapshot_version(snapshot)
        first = self._fleet.target is None
        self._note(Stage.ENGINES, version)
        before = self._with_retired(self._given)
        chains = MappingProxyType({**before.get(CHAIN, NOTHING), **snapshot[CHAIN]})
        self._fleet.set_target({**before, CHAIN: chains})
        engines = await self._fleet.wait(self._expected_engines if first else self._fleet.engines, self._waits.engines)
        if engines.refusals and not first:
            self._fleet.set_target(before)
            self._note(Stage.REFUSED_BY_ENGINE, version, engines)
            return
        # After a start there is nothing to go back to: what an engine refuses it denies, and all else is served.
        self._give(snapshot)
        self._note(Stage.ENVOYS, version, engines)
        self._fleet.set_target(self._with_retired(snapshot))
        envoys = await self._fleet.wait(self._fleet.envoys, self._waits.envoys)
        if envoys.refusals:
            self._note(Stage.REFUSED_BY_ENVOY, version, envoys)
            return
        self._note(Stage.IN_USE, version, Judgement(envoys.waiting, engines.refusals))
        await self._remove_retired(snapshot)

    def _give(self, snapshot: Snapshot) -> None:
        """Note that Envoys get `snapshot`, and keep what it lacks of the one before."""
        for type_url in _RETIRED:
            for name, one in self._given.get(type_url, NOTHING).items():
                self._retired.setdefault((type_url, name), _Retired(one))
            for name in snapshot[type_url]:
                self._retired.pop((type_url, name), None)
        self._given = snapshot

    def _with_retired(self, snapshot: Snapshot) -> Snapshot:
        target = dict(snapshot)
        for (type_url, name), retired in self._retired.items():
            target[type_url] = MappingProxyType({**target.get(type_url, NOTHING), name: retired.resource})
        return target

    async def _remove_retired(self, snapshot: Snapshot) -> None:
        for retired in self._retired.values():
            retired.since = retired.since or time.monotonic()
        while self._retired:
            oldest = min(retired.since or 0.0 for retired in self._retired.values())
            await asyncio.sleep(max(0.0, oldest + self._waits.before_removal - time.monotonic()))
            over = time.monotonic() - self._waits.before_removal
            self._retired = {key: one for key, one in self._retired.items() if (one.since or 0.0) > over}
            self._fleet.set_target(self._with_retired(snapshot))

    def _expected_engines(self) -> Judgement:
        engines, missing = self._fleet.engines(), self._waits.expected_engines - self._fleet.count_engines()
        if missing <= 0 or self._newest is None or not self._newest[CHAIN]:
            return engines
        return Judgement((*engines.waiting, f"{missing} more engines"), engines.refusals)

    async def _forget_the_past(self) -> None:
        await asyncio.sleep(self._waits.after_start)
        self._fleet.drop_unknown_chains()

    def _note(self, stage: Stage, version: str, judgement: Judgement | None = None) -> None:
        judgement = judgement or Judgement()
        self.progress = Progress(stage, version, time.time(), judgement.waiting, judgement.refusals)
        log = logger.error if judgement.refusals else logger.info
        details = "; ".join((*judgement.refusals, *(f"no answer from {name}" for name in judgement.waiting)))
        log("snapshot %s: %s%s", version, stage.value, f" ({details})" if details else "")
