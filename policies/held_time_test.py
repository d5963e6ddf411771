"""No body makes a policy hold the event loop, and none costs more than in proportion to its size.

Every policy that reads bodies is found by itself and needs a row in `ROWS`: parameters that give it all the work it can
have. It is sent bodies made to be dear through a real session, whole and in chunks, as Envoy sends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from policy_engine.kernel.kernel import Kernel
from policy_engine.kernel.session import Session
from policy_engine.kernel.stream import Peer
from policy_engine.sources.chain_file import load_chain_paths
from policy_engine.sources.chain_reader import ChainReader
from policy_engine.worker.chains.compiler import Compiler
from policy_engine.worker.policies.loader import load_policies
from testsupport.dear_bodies import JSON, KINDS
from testsupport.envoy_messages import ProcessingMode, Reply, body, request_headers, response_headers

ROOT = Path(__file__).parent
READERS = {
    path.parent.parent.name
    for path in ROOT.glob("*/v*/policy.yaml")
    if {"request_body", "response_body"} & set(yaml.safe_load(path.read_text())["phases"])
}

# -- what is held against what ---------------------------------------------------------------------------------------

PROMISED_SECONDS = 0.02
HELD_SECONDS = 0.1
"""What fails here: processor time of the loop's thread between two turns; five times the promise, for slow machines."""

STOOD_STILL_SECONDS = 0.6
"""What fails here of the wall clock: the loop waits for the global lock while a thread computes. Wide: others compute too."""

LARGE = 4 << 20
LARGE_ONES = {
    *("empty lists", "small objects", "many members", "one long text", "combining marks", "prompt, many finds"),
    *("letters", "near-miss emails", "near-miss cards", "lines", "marks", "small events", "line without end"),
}
"""The bodies that are sent at that size too."""

SMALL = 8 * 1024
GROWTH = 2.0
"""What the cost for four times the size may be over four times the cost; quadratic cost is at 4."""

# -- parameters ------------------------------------------------------------------------------------------------------

_NODE = {
    "anyOf": [
        {"type": "object", "additionalProperties": {"$ref": "#/$defs/node"}},
        {"type": "array", "items": {"$ref": "#/$defs/node"}, "uniqueItems": True},
        {"type": "string", "pattern": "^(a+)+$"},
        {"type": "string", "format": "email"},
        {"type": ["number", "boolean", "null"]},
    ],
    "$defs": {},
}
_SCHEMA = {"$ref": "#/$defs/node", "$defs": {"node": {key: value for key, value in _NODE.items() if key != "$defs"}}}
_UNEVALUATED = {
    "allOf": [{"properties": {"a": True}}, {"prefixItems": [True]}],
    "unevaluatedProperties": {"type": ["string", "number", "array", "object"]},
    "unevaluatedItems": {"type": ["string", "number", "array", "object"]},
}
_OPERATIONS = [
    {"op": "set", "path": "/tenant", "value": {"a": [1, 2, 3]}},
    {"op": "default", "path": "/a/b/c", "value": "d"},
    {"op": "remove", "path": "/k1"},
    {"op": "rename", "path": "/k2", "to": "k"},
    {"op": "copy", "path": "/copied", "from": "/k3"},
    {"op": "move", "path": "/moved", "from": "/k4"},
]

ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "cache": {"": {"default_ttl": "1m", "max_body_bytes": LARGE}},
    "json-schema-validation": {
        name: {side: {"schema": schema} for side in ("request", "response")} | {"max_depth": 200}
        for name, schema in (("recursive", _SCHEMA), ("unevaluated", _UNEVALUATED), ("false", False))
    },
    "json-transform": {"": {side: {"operations": _OPERATIONS} for side in ("request", "response")}},
    # Nobody answers there, and a body that is too large is refused: what is left is the question that is written.
    "ext-auth": {
        "": {"server": {"url": "http://127.0.0.1:9/"}, "format": "opa", "request": {"max_body_bytes": 262_144}},
    },
    "pii-masking": {
        "": {
            "directions": ["request", "response"],
            "patterns": [{"name": "words", "pattern": "(not|bad) (not|bad)"}, {"name": "as", "pattern": "(a+)+z"}],
            "mask": {"style": "hash", "salt": "a salt that is long enough"},
            "max_json_bytes": 64 << 20,
        },
        "pointers": {
            "directions": ["request", "response"],
            "json_pointers": {"include": ["/*", "/*/*/*", "/a/a/a/a"], "exclude": ["/*/*/b"]},
            "max_json_bytes": 64 << 20,
        },
    },
    "llm-budget": {
        "": {
            "budgets": [
                {"name": "held", "amount": 10**12, "window": "month", "key": "request.path", "per_model": True},
                {"name": "money", "amount": 10**9, "window": "day", "unit": "money", "models": ["*a*b*", "*"]},
            ],
            "prices": [{"model": "*a*b*c*", "input": 1, "output": 1}, {"model": "*", "input": 1, "output": 2}],
            "not_json": "pass",
            "stream_reserve": 1,
        }
    },
    "llm-prompt-guard": {
        "": {
            "prompt": {"deny_words": ["forbidden word"], "deny_patterns": ["(a+)+z"], "allow_patterns": ["not bad"]},
            "answer": {"deny_words": ["bad"], "action": "redact"},
        }
    },
    "llm-router": {"": {"routes": [{"model": "*", "targets": [{"backend": "a", "model": "b"}]}]}},
    "llm-translate": {"": {"upstream": "anthropic", "unsupported": "drop"}},
    "llm-usage": {"": {"models": ["*a*b*c", "*"]}},
    "mcp-authorize": {
        "": {
            "rules": [
                *({"name": f"r{number}", "action": "deny", "tools": [f"*{number}*x"]} for number in range(100)),
                {"name": "all", "action": "allow"},
            ],
            "methods": ["*a*b*c", "*"],
            "max_message_bytes": 16 << 20,
        }
    },
    "llm-token-limit": {
        "": {"max_prompt_tokens": 1_000_000, "max_completion_tokens": 1_000_000, "max_stream_tokens": 1_000_000}
    },
    # The header is one that every message of these tests has, so that the body is hashed, with every secret.
    "webhook-signature": {
        "": {
            "format": "hmac",
            "secrets": [f"a secret, number {number}" for number in range(10)],
            "hmac": {"header": "cache-control", "prefix": "max-age=", "algorithm": "sha512"},
        }
    },
}
"""Parameters by policy and by a name for each of its rows."""

# -- one exchange ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """What one exchange cost the event loop: seconds of its thread's processor time, and of the clock."""

    held: float
    stood_still: float


class Rig:
    """A kernel with a route for every row of every version, and what an exchange on one costs."""

    def __init__(self, directory: Path, policies: Path, rows: dict[str, dict[str, dict[str, Any]]]) -> None:
        registry = load_policies(policies)
        self.compiler = Compiler(registry)
        routes = [
            {
                "route_key": f"{one.name} {one.version} {name}",
                "policies": [
                    {"name": one.name, "version": str(one.version), "timeout": "1s", "parameters": parameters}
                ],
            }
            for one in registry
            for name, parameters in rows.get(one.name, {}).items()
        ]
        file = directory / "chains.yaml"
        file.write_text(json.dumps({"version": "v1", "routes": routes}))
        loaded = load_chain_paths([file], ChainReader(registry))
        assert loaded.chains is not None, "\n".join(map(str, loaded.diagnostics))
        self.kernel = Kernel()
        self.kernel.activate(self.compiler.compile(loaded.chains))
        self.keys = [str(one["route_key"]) for one in routes]

    def instance(self, key: str) -> Any:
        """Return the one policy of a route."""
        snapshot = self.kernel.snapshot
        assert snapshot is not None
        return snapshot.chains[key].instances[0]

    async def exchange(self, key: str, side: str, kind: str, data: bytes, *, streamed: bool = False) -> str:
        """Send a request and its response, `data` as the body of `side`; returns what ended it, or nothing."""
        headers = [("content-type", KINDS[kind].content_type), ("cache-control", "max-age=60")]
        modes = (ProcessingMode.FULL_DUPLEX_STREAMED,) * 2 if streamed else (0, 0)
        session = Session(self.kernel, Peer())
        asked = {"request": 0, "response": 0}
        try:
            sends = side == "request"
            first = request_headers(
                key,
                headers,
                method="POST" if sends else "GET",
                end=not sends,
                path=f"/{time.time_ns()}/chat/completions",
                body_modes=modes,
            )
            for message in (first, response_headers(200, headers)):
                ended = False
                for reply in await self._replies(session, message):
                    if reply.HasField("mode_override"):
                        asked["request"] = reply.mode_override.request_body_mode
                        asked["response"] = reply.mode_override.response_body_mode
                    ended = ended or reply.HasField("immediate_response")
                current = "request" if message is first else "response"
                if ended or (asked[current] and current == side and await self._body(session, side, data, asked[side])):
                    return "ended"
            return ""
        finally:
            session.close()

    async def _body(self, session: Session, side: str, data: bytes, mode: int) -> bool:
        size = len(data) if mode == ProcessingMode.BUFFERED else _CHUNK
        for at in range(0, max(len(data), 1), size or 1):
            message = body(side, data[at : at + size], end=at + size >= len(data))
            replies = await self._replies(session, message)
            if any(reply.HasField("immediate_response") for reply in replies):
                return True
        return False

    @staticmethod
    async def _replies(session: Session, message: bytes) -> list[Any]:
        answer = session.receive(message)
        if asyncio.iscoroutine(answer):
            answer = await asyncio.create_task(answer)
        else:
            await asyncio.sleep(0)
        pieces = (answer,) if isinstance(answer, bytes) else tuple(answer or ())
        return [Reply.FromString(one) for one in pieces]

    async def found(self, key: str, side: str, kind: str, data: bytes, *, streamed: bool = False) -> Found:
        """Return the longest turn of the loop during an exchange."""
        longest, stopped = Found(0.0, 0.0), False

        async def beat() -> None:
            nonlocal longest
            cpu, clock = time.thread_time(), time.perf_counter()
            while not stopped:
                await asyncio.sleep(0.001)
                now_cpu, now = time.thread_time(), time.perf_counter()
                longest = Found(max(longest.held, now_cpu - cpu), max(longest.stood_still, now - clock))
                cpu, clock = now_cpu, now

        gc.collect()
        beating = asyncio.create_task(beat())
        await asyncio.sleep(0.002)
        await self.exchange(key, side, kind, data, streamed=streamed)
        await asyncio.sleep(0.002)
        stopped = True
        await beating
        return longest

    async def least(self, key: str, side: str, kind: str, data: bytes, *, streamed: bool = False) -> Found:
        """Return the same, tried again where it is over the limit: other work of the machine is not ours."""
        tries = []
        for _ in range(3):
            tries.append(await self.found(key, side, kind, data, streamed=streamed))
            if tries[-1].held < HELD_SECONDS and tries[-1].stood_still < STOOD_STILL_SECONDS:
                break
        return Found(min(one.held for one in tries), min(one.stood_still for one in tries))


_CHUNK = 64 * 1024


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("held"), ROOT, ROWS)
    gc.collect()
    gc.freeze()  # what the test process holds is none of the policies' cost
    yield made
    gc.unfreeze()
    made.compiler.close()


def cases() -> Iterator[Any]:
    """Every row with every kind of body and direction; what is not looked at costs little time to show."""
    for policy, rows in ROWS.items():
        for row, kind in itertools.product(rows, KINDS):
            yield pytest.param(policy, row, kind, id=f"{policy} {row} {kind}".replace("  ", " "))


def keys_of(rig: Rig, policy: str, row: str) -> list[str]:
    return [key for key in rig.keys if key.split(" ")[0] == policy and key.split(" ", 2)[2] == row]


# -- tests -----------------------------------------------------------------------------------------------------------


def test_every_policy_that_reads_bodies_has_a_row() -> None:
    assert set(ROWS) == READERS, "write a row of parameters that give the policy all the work it can have"


def judged(found: dict[str, Found], capsys: pytest.CaptureFixture[str]) -> None:
    """Print the worst, and fail for what held the loop."""
    worst = sorted(found.items(), key=lambda one: -one[1].held)[:3]
    with capsys.disabled():
        print(
            *(
                f"\n  {one.held * 1e3:6.1f} ms, stood still {one.stood_still * 1e3:6.1f} ms: {name}"
                for name, one in worst
            )
        )
    held = {name: one for name, one in found.items() if one.held > HELD_SECONDS}
    still = {name: one for name, one in found.items() if one.stood_still > STOOD_STILL_SECONDS}
    assert not held and not still, f"held the event loop, offload this work: {held | still}"  # noqa: PT018 - one thing


@pytest.mark.parametrize(("policy", "row", "kind"), cases())
def test_no_body_holds_the_loop(rig: Rig, policy: str, row: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Found] = {}

    async def run() -> None:
        for key in keys_of(rig, policy, row):
            just_under = max(rig.instance(key).offload_above - 64, 1024)
            for name, make in KINDS[kind].bodies.items():
                for side, size in (("request", just_under), ("response", 1000)):
                    found[f"{key}, {side} of {size} bytes: {name}"] = await rig.least(key, side, kind, make(size))
                if name in LARGE_ONES:
                    data = make(4 * _CHUNK)
                    found[f"{key}, streamed: {name}"] = await rig.least(key, "response", kind, data, streamed=True)

    asyncio.run(run())
    judged(found, capsys)


@pytest.mark.parametrize(("policy", "row", "kind"), cases())
def test_no_large_body_holds_the_loop(
    rig: Rig, policy: str, row: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[str, Found] = {}

    async def run() -> None:
        for key in keys_of(rig, policy, row):
            for name in LARGE_ONES & set(KINDS[kind].bodies):
                data = KINDS[kind].bodies[name](LARGE)
                for side in ("request", "response"):
                    found[f"{key}, {side}: {name}"] = await rig.least(key, side, kind, data)

    asyncio.run(run())
    judged(found, capsys)


@pytest.mark.parametrize(("policy", "row", "kind"), cases())
def test_cost_grows_with_the_size_and_no_faster(rig: Rig, policy: str, row: str, kind: str) -> None:
    steep: dict[str, list[float]] = {}

    async def cost(key: str, side: str, data: bytes) -> float:
        times = []
        for _ in range(2):
            gc.disable()  # a collection costs by what was there before, too
            try:
                began = time.thread_time()
                await rig.exchange(key, side, kind, data)
                times.append(time.thread_time() - began)
            finally:
                gc.enable()
        return min(times)

    async def run() -> None:
        for key, side in itertools.product(keys_of(rig, policy, row), ("request", "response")):
            for name, make in KINDS[kind].bodies.items():
                costs = [await cost(key, side, make(size)) for size in (SMALL, 2 * SMALL, 4 * SMALL)]
                if costs[2] > 4 * GROWTH * costs[0] + 0.01:
                    steep[f"{key}, {side}: {name}"] = costs

    away = {key: rig.instance(key)._away for key in keys_of(rig, policy, row)}
    for key in away:
        rig.instance(key)._away = None  # done here, where its cost is seen
    try:
        asyncio.run(run())
    finally:
        for key, bound in away.items():
            rig.instance(key)._away = bound
    assert not steep, f"cost at {SMALL}, {2 * SMALL}, {4 * SMALL} bytes in seconds: {steep}"


# -- memory ----------------------------------------------------------------------------------------------------------

AT_ONCE, BODY = 8, 9 << 20
MOST_IN_WORKER, MOST_LEFT = 4 * AT_ONCE * BODY, 64 << 20
"""Bytes that the bodies of one moment may take (as a message, as its body, in two writes), and what may stay behind."""
MOST_IN_HELPERS = 2 << 30
"""Two helpers with a limit of 1 GiB each."""


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * 4096
    except OSError:
        return 0


def children() -> list[int]:
    mine = f" {os.getpid()} "
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == mine.strip():
                found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("policy", sorted(ROWS))
def test_memory_of_many_large_bodies_at_once_goes_back(
    rig: Rig, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key = keys_of(rig, policy, next(iter(ROWS[policy])))[0]
    peak_here, peak_there = 0, 0

    async def run() -> None:
        nonlocal peak_here, peak_there
        data = JSON["small objects"](BODY)
        side = "response" if policy == "cache" else "request"
        exchanges = [asyncio.create_task(rig.exchange(key, side, "json", data)) for _ in range(AT_ONCE)]
        while not all(one.done() for one in exchanges):
            peak_here = max(peak_here, resident(os.getpid()))
            peak_there = max(peak_there, sum(map(resident, children())))
            await asyncio.sleep(0.05)

    asyncio.run(run())
    gc.collect()
    before = resident(os.getpid())
    gc.disable()  # what only the collector would find stays for too long
    try:
        asyncio.run(run())
        left = resident(os.getpid()) - before
    finally:
        gc.enable()
    with capsys.disabled():
        print(f"\n  {key}: {(peak_here - before) >> 20} MiB more, {left >> 20} left; helpers {peak_there >> 20} MiB")
    assert peak_here - before < MOST_IN_WORKER
    assert left < MOST_LEFT
    assert peak_there < MOST_IN_HELPERS


# -- the test itself -------------------------------------------------------------------------------------------------

_GREEDY = """
import asyncio
from policy_engine.sdk import Policy
class Greedy(Policy):
    def on_request_body(self, request):
        return WORK

    def _parse(self, body):
        sum(range(20 * len(body)))  # one call into C, of seconds, that keeps Python's global lock
"""
_MANIFEST = """
name: greedy
version: v1.0.0
description: Holds the loop, or not.
entrypoint: policy:Greedy
phases: [request_body]
parameters: {$schema: "https://json-schema.org/draft/2020-12/schema", type: object, additionalProperties: false}
examples: [{description: none, parameters: {}}]
"""


@pytest.mark.parametrize(
    ("work", "offloads"),
    [
        ("self._parse(request.body)", False),
        ("asyncio.to_thread(self._parse, request.body)", False),
        ("self.offload_large(self._parse, request.body)", True),
    ],
)
def test_what_holds_the_loop_is_found(tmp_path: Path, work: str, *, offloads: bool) -> None:
    directory = tmp_path / "policies/greedy/v1_0_0"
    directory.mkdir(parents=True)
    (directory / "policy.py").write_text(_GREEDY.replace("WORK", work))
    (directory / "policy.yaml").write_text(_MANIFEST)
    made = Rig(tmp_path, tmp_path / "policies", {"greedy": {"": {}}})
    try:
        found = asyncio.run(made.least(made.keys[0], "request", "json", JSON["small objects"](BODY)))
    finally:
        made.compiler.close()
    assert (found.held < HELD_SECONDS and found.stood_still < STOOD_STILL_SECONDS) is offloads, found
