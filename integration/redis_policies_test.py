"""rate-limit and cache through two Envoys, each with an engine of its own, and one real Redis that comes and goes."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration.harness import client
from integration.harness.chain_file import ChainFile, Document, chain, chains, policy
from integration.harness.client import Reply
from integration.harness.engine import EngineProcess
from integration.harness.envoy import Envoy, EnvoyProcess
from integration.harness.envoy_config import Bootstrap, Route
from integration.harness.exchange import Answer, HeaderList
from integration.harness.upstream import Upstream
from policy_redis.testing import RedisServer, redis_server

POLICIES = Path(__file__).parent.parent / "policies"
NAMES = ("limited", "cached", "cached-here")


@dataclass(frozen=True, slots=True)
class Gateways:
    """Two Envoys, each with an engine of its own, before one upstream and one Redis."""

    envoys: list[Envoy]
    upstream: Upstream
    redis: RedisServer
    engines: list[EngineProcess]

    def send(
        self, target: str, *, through: int = 0, method: str = "GET", headers: HeaderList = (), body: bytes = b""
    ) -> Reply:
        fields = [("host", "api.example.test"), *headers]
        return client.send(self.envoys[through].port, method, target, headers=fields, body=body)

    def answer(self, body: bytes, *headers: tuple[str, str], status: int = 200) -> None:
        self.upstream.reset()
        self.upstream.answer_with(
            Answer.of(body, status=status, headers=[("content-type", "application/json"), *headers])
        )


def document(redis: Document) -> Document:
    limit = {"limits": ["5/hour"], "redis": redis, "headers_on_allowed": True, "on_store_error": "deny"}
    key = [{"source": "header", "name": "x-client"}]
    return chains(
        chain("limited", policy("rate-limit", "v1.0.0", {**limit, "key": key}, timeout="10s")),
        chain("cached", policy("cache", "v1.0.0", {"status_header": "x-cache", "redis": redis}, timeout="10s")),
        chain("cached-here", policy("cache", "v1.0.0", {"status_header": "x-cache"})),
    )


@pytest.fixture(scope="module")
def gateways() -> Iterator[Gateways]:
    with contextlib.ExitStack() as stack:
        # Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7)).
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="rp-", dir="/tmp"))
        redis, upstream = stack.enter_context(redis_server()), stack.enter_context(Upstream())
        envoys, engines = [], []
        for number in range(2):
            directory = Path(name) / str(number)
            directory.mkdir()
            file = ChainFile(directory / "chains.yaml")
            file.write(document({"url": redis.url, "timeout": "5s", "retry_after": "100ms"}))
            engine = stack.enter_context(EngineProcess(directory, chains=file.path, policies=POLICIES))
            engine.ready()
            engines.append(engine)
            routes = [Route(prefix=f"/{name}/", name=name) for name in NAMES]
            bootstrap = Bootstrap(routes=routes, engine=engine.address, upstream_port=upstream.port)
            envoys.append(stack.enter_context(EnvoyProcess(bootstrap, directory)).ready())
        yield Gateways(envoys, upstream, redis, engines)


def test_two_engines_allow_a_client_the_limit_once(gateways: Gateways) -> None:
    gateways.answer(b"{}")
    replies = [gateways.send("/limited/a", through=number % 2, headers=[("x-client", "one")]) for number in range(12)]
    assert [reply.status for reply in replies] == [200] * 5 + [429] * 7
    assert replies[0].header("ratelimit") == '"5-in-3600s";r=4;t=3600'
    assert (replies[4].header("ratelimit") or "").startswith('"5-in-3600s";r=0;t=')
    assert 3500 < int(replies[5].header("retry-after") or 0) <= 3600
    assert len(gateways.upstream.received) == 5
    assert gateways.send("/limited/a", headers=[("x-client", "two")]).status == 200
    assert gateways.send("/limited/a").status == 400


def test_a_grpc_client_is_told_in_its_own_way(gateways: Gateways) -> None:
    grpc = [("x-client", "grpc"), ("content-type", "application/grpc")]
    statuses = [gateways.send("/limited/a", method="POST", headers=grpc).header("grpc-status") for _ in range(6)]
    assert statuses[5] == "8"


@pytest.mark.parametrize("route", ["cached", "cached-here"])
def test_a_hit_is_the_response_as_it_was(gateways: Gateways, route: str) -> None:
    gateways.answer(b'{"a":1}', ("cache-control", "max-age=60"), ("etag", '"v1"'), ("x-upstream", "one"))
    first = gateways.send(f"/{route}/a?b=1")
    gateways.answer(b"other")
    again = gateways.send(f"/{route}/a?b=1")
    assert (first.header("x-cache"), again.header("x-cache"), len(gateways.upstream.received)) == ("miss", "hit", 0)
    assert (again.status, again.body) == (first.status, first.body)
    same = ("content-type", "cache-control", "etag", "x-upstream", "content-length", "date")
    assert [again.values(name) for name in same] == [first.values(name) for name in same]
    assert int(again.header("age") or -1) >= 0
    not_modified = gateways.send(f"/{route}/a?b=1", headers=[("if-none-match", '"v1"')])
    assert (not_modified.status, not_modified.body, not_modified.header("etag")) == (304, b"", '"v1"')
    head = gateways.send(f"/{route}/a?b=1", method="HEAD")
    assert (head.status, head.body, head.header("content-length")) == (200, b"", "7")
    assert gateways.send(f"/{route}/a?b=2").body == b"other"


def test_engines_share_responses_and_a_change_is_forgotten_by_both(gateways: Gateways) -> None:
    gateways.answer(b"1", ("cache-control", "max-age=60"))
    gateways.send("/cached/shared")
    gateways.answer(b"2", ("cache-control", "max-age=60"))
    assert gateways.send("/cached/shared", through=1).body == b"1"
    assert gateways.send("/cached/shared", through=1, method="PUT", body=b"x").status == 200
    assert gateways.send("/cached/shared").body == b"2"


def test_a_compressed_response_is_answered_decoded(gateways: Gateways) -> None:
    packed = gzip.compress(b"text" * 100)
    gateways.answer(packed, ("cache-control", "max-age=60"), ("content-encoding", "gzip"), ("etag", '"z"'))
    assert gateways.send("/cached-here/gzip").body == packed
    again = gateways.send("/cached-here/gzip")
    assert (again.header("x-cache"), again.body) == ("hit", b"text" * 100)
    assert (again.values("content-encoding"), again.header("etag")) == ([], 'W/"z"')


def test_responses_without_a_body_or_a_type(gateways: Gateways) -> None:
    gateways.answer(b"", ("cache-control", "max-age=60"), ("location", "/b"), status=301)
    gateways.send("/cached-here/moved")
    again = gateways.send("/cached-here/moved")
    assert (again.status, again.header("x-cache"), again.header("location"), again.body) == (301, "hit", "/b", b"")


def test_redis_goes_and_comes_back(gateways: Gateways) -> None:
    gateways.answer(b"1", ("cache-control", "max-age=60"))
    gateways.send("/cached/away")
    assert gateways.send("/cached/away").header("x-cache") == "hit"
    gateways.redis.stop()
    try:
        for _ in range(5):
            assert gateways.send("/limited/away", headers=[("x-client", "away")]).status == 503
            assert (gateways.send("/cached/away").status, gateways.send("/cached/away").header("x-cache")) == (
                200,
                "miss",
            )
        told_of_outage(gateways)
    finally:
        gateways.redis.start()
    answers: list[int] = []
    while not answers or answers[-1] == 503:
        answers.append(gateways.send("/limited/away", headers=[("x-client", "away")]).status)
        assert len(answers) < 10_000
    assert answers[-1] == 200
    gateways.send("/cached/away")
    engine = gateways.engines[0]
    engine.wait_until(lambda: readyz(engine) == (200, "ready\n"), what="aware that Redis is back")
    assert up(engine) == [1]


def readyz(engine: EngineProcess, query: str = "") -> tuple[int, str]:
    reply = client.send(engine.admin.port, target=f"/readyz{query}")
    return reply.status, reply.body.decode()


def up(engine: EngineProcess) -> list[float]:
    return list(engine.admin.samples("policy_engine_dependency_up").values())


def told_of_outage(gateways: Gateways) -> None:
    """Assert that the engine whose Redis is gone says so, and stays ready; the other has not asked it since."""
    engine, other = gateways.engines
    where = f"redis unix:{gateways.redis.path}"
    engine.wait_until(lambda: where in readyz(engine)[1], what="aware of the outage")
    status, text = readyz(engine)
    assert (status, text.splitlines()[0]) == (200, "ready")
    assert text.splitlines()[1].startswith(f"degraded: {where} has not answered for ")
    verbose = readyz(engine, "?verbose")[1].splitlines()
    assert [line[:3] for line in verbose[:-1]] == ["[+]", "[+]", "[+]", "[-]"], verbose
    assert verbose[-1] == "readyz check passed: ready"
    assert up(engine) == [0]
    (errors,) = engine.admin.samples("policy_engine_dependency_errors_total").values()
    (seconds,) = engine.admin.samples("policy_engine_dependency_failing_seconds").values()
    assert errors >= 1
    assert seconds > 0
    assert readyz(other) == (200, "ready\n")
    assert 0 not in up(other)
