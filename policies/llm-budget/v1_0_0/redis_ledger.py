"""What is taken from budgets, in Redis for all engines: every change is one script, so one step for all of them.

A change says what the exchange has from then on, not what is added: made twice, or after a later one, it does no harm,
and so one that got no answer can be tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable
from typing import Any

from policy_engine.sdk.steady_clock import steady_time
from policy_redis import RedisLink, StoreUnavailable

from .ledger import Amounts, Granted, Hold, Outcome, Refused

_log = logging.getLogger("policy.llm-budget")
_LONGEST_S = 90_000
"""Seconds that what an exchange holds is known, and a budget is kept beyond its window: for who settles late."""
_SETTLED_S = 600
"""Seconds that a settled exchange is known, so that what comes late or twice is not counted again."""
_MOST_OWED = 10_000
_LATE = -1
_PAUSE_S = 0.5
_LAST_S = 2.0

_SCRIPT = """
-- KEYS: the exchange, then its lines. ARGV: turn, whether there has to be room, seconds to keep the exchange, then for
-- each line: wanted, least, limit, seconds to keep it.
local known = redis.call('HGETALL', KEYS[1])
local has = {}
for at = 1, #known, 2 do has[known[at]] = tonumber(known[at + 1]) end
if has.turn and has.turn > tonumber(ARGV[1]) then return {-1} end
local lines = #KEYS - 1
local taken, amounts = {}, {}
for line = 1, lines do
  local at, had = 4 * line, has[tostring(line)] or 0
  local wanted, least, limit = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  taken[line] = tonumber(redis.call('GET', KEYS[line + 1]) or '0')
  amounts[line] = wanted
  if ARGV[2] == '1' and wanted > had then
    amounts[line] = math.max(had, math.min(wanted, limit - taken[line] + had))
    if amounts[line] < least then return {line} end
  end
end
local found = {0}
for line = 1, lines do
  local at = 4 * line
  local more = amounts[line] - (has[tostring(line)] or 0)
  if more ~= 0 then taken[line] = redis.call('INCRBY', KEYS[line + 1], string.format('%.0f', more)) end
  redis.call('EXPIRE', KEYS[line + 1], ARGV[at + 3])
  redis.call('HSET', KEYS[1], tostring(line), string.format('%.0f', amounts[line]))
  found[#found + 1] = string.format('%.0f', amounts[line])
  found[#found + 1] = string.format('%.0f', tonumber(ARGV[at + 2]) - taken[line])
end
redis.call('HSET', KEYS[1], 'turn', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return found
"""


class RedisLedger:
    """Writes it down in Redis, all keys in one slot of a cluster as each change is for several of them."""

    def __init__(self, link: RedisLink, prefix: str) -> None:
        self._link = link
        self._prefix = f"{{{prefix}}}"
        self._script = link.client.register_script(_SCRIPT)
        self._owed: OrderedDict[str, tuple[Hold, Amounts]] = OrderedDict()
        self._paying: asyncio.Task[None] | None = None

    async def take(self, hold: Hold, wanted: Amounts, least: Amounts) -> Outcome:
        """See `Ledger`."""
        hold.turn += 1
        found = await self._run(hold, wanted, least, checked=True)
        if found[0] > 0:
            return Refused(hold.lines[found[0] - 1])
        granted = Granted(found[1::2], found[2::2])
        hold.amounts = list(granted.amounts)
        return granted

    async def settle(self, hold: Hold, used: Amounts) -> None:
        """See `Ledger`."""
        hold.turn += 1
        try:
            await self._run(hold, used, used, checked=False)
        except StoreUnavailable:
            self._owe(hold, used)

    def settle_later(self, hold: Hold, used: Amounts) -> None:
        """See `Ledger`."""
        hold.turn += 1
        self._owe(hold, used)

    async def close(self) -> None:
        """Settle what is owed, as far as Redis answers now, and close the connections."""
        if self._paying is not None:
            self._paying.cancel()
        try:
            async with asyncio.timeout(_LAST_S):
                await self._pay()
        except (StoreUnavailable, TimeoutError):
            _log.warning(
                "exchanges stay charged with what they held",
                extra={"event": "llm_budget_unsettled", "fields": {"exchanges": len(self._owed)}},
            )
        await self._link.close()

    def _owe(self, hold: Hold, used: Amounts) -> None:
        self._owed[hold.identity] = (hold, used)
        if len(self._owed) > _MOST_OWED:
            self._owed.popitem(last=False)  # it stays charged with what it held
        if self._paying is None or self._paying.done():
            self._paying = asyncio.get_running_loop().create_task(self._keep_paying())

    async def _keep_paying(self) -> None:
        while self._owed:
            try:
                await self._pay()
            except StoreUnavailable:
                await asyncio.sleep(_PAUSE_S)

    async def _pay(self) -> None:
        while self._owed:
            identity, (hold, used) = next(iter(self._owed.items()))
            await self._run(hold, used, used, checked=False)
            if self._owed.get(identity) == (hold, used):
                del self._owed[identity]

    async def _run(self, hold: Hold, wanted: Amounts, least: Amounts, *, checked: bool) -> list[int]:
        now = steady_time()
        lines = zip(hold.lines, wanted, least, strict=True)
        keys = [f"{self._prefix}:exchange:{hold.identity}", *(f"{self._prefix}:{line.key}" for line in hold.lines)]
        arguments: list[Any] = [hold.turn, int(checked), _LONGEST_S if checked else _SETTLED_S]
        for line, more, less in lines:
            arguments += [more, less, line.limit, max(0, int(line.until - now)) + _LONGEST_S]
        answer: Awaitable[Any] = self._link.ask(lambda: self._script(keys=keys, args=arguments))
        return _checked(await answer, len(hold.lines))


def _checked(answer: Any, lines: int) -> list[int]:
    """Return what the script answered; what no script of ours answers is no answer."""
    try:
        found = [int(one) for one in answer]
    except (TypeError, ValueError):
        found = []
    if found == [_LATE]:
        return [0] * (1 + 2 * lines)  # nobody waits for it
    refused = len(found) == 1 and 0 < found[0] <= lines
    granted = len(found) == 1 + 2 * lines and found[0] == 0
    if not refused and not granted:
        raise StoreUnavailable("Redis answers something else than it was asked")
    return found
