"""Brings a new snapshot to engines and Envoys in make-before-break order (R-22, R-54).

It is its own room because the order is the promise: (1) engines get new and changed chains beside all that Envoys may
still use; (2) when they have them, Envoys get clusters, endpoints, listeners and routes; (3) when those are in use,
engines lose what no route refers to. A change that an engine refuses goes no further and is taken back everywhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import NoReturn

from policy_control_plane.fleet import Fleet, Judgement
from policy_control_plane.resources import CHAIN, NOTHING, Resource, Snapshot, snapshot_version

logger = logging.getLogger(__name__)


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
    connected yet may still send requests for them. `before_removal` is the time from an Envoy's ACK of routes until
    engines lose the chains of the routes before: Envoy's main thread answers, and its workers follow.
    """

    engines: float = 5.0
    envoys: float = 10.0
    after_start: float = 15.0
    expected_engines: int = 1
    before_removal: float = 2.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the newest snapshot is."""

    stage: Stage
    version: str = ""
    since: float = 0.0
    waiting: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()


class Rollout:
    """Give it snapshots with `offer`; `run` brings the newest one out."""

    def __init__(self, fleet: Fleet, waits: Waits | None = None) -> None:
        self._fleet = fleet
        self._waits = waits or Waits()
        self._newest: Snapshot | None = None
        self._offered = asyncio.Event()
        self._chains_in_use: Mapping[str, Resource] = NOTHING
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
        envoys_have = {type_url: some for type_url, some in (self._fleet.target or {}).items() if type_url != CHAIN}
        chains = MappingProxyType({**self._chains_in_use, **snapshot[CHAIN]})
        self._note(Stage.ENGINES, version)
        self._fleet.set_target({**envoys_have, CHAIN: chains})
        engines = await self._fleet.wait(self._expected_engines if first else self._fleet.engines, self._waits.engines)
        if engines.refusals and not first:
            self._fleet.set_target({**envoys_have, CHAIN: self._chains_in_use})
            self._note(Stage.REFUSED_BY_ENGINE, version, engines)
            return
        # After a start there is nothing to go back to: what an engine refuses it denies, and all else is served.
        self._chains_in_use = chains
        self._note(Stage.ENVOYS, version, engines)
        self._fleet.set_target({**snapshot, CHAIN: chains})
        envoys = await self._fleet.wait(self._fleet.envoys, self._waits.envoys)
        if envoys.refusals:
            self._note(Stage.REFUSED_BY_ENVOY, version, envoys)
            return
        self._note(Stage.IN_USE, version, Judgement(envoys.waiting, engines.refusals))
        if chains.keys() > snapshot[CHAIN].keys():
            await asyncio.sleep(self._waits.before_removal)
        self._chains_in_use = snapshot[CHAIN]
        self._fleet.set_target(snapshot)

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
