"""What an upstream's `Connection` lists belongs to one connection: Envoy takes `Connection` away, and not what it lists."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration.harness import client
from integration.harness.chain_file import ChainFile, chain, chains, policy
from integration.harness.engine import EngineProcess
from integration.harness.exchange import Answer, HeaderList, Received
from integration.harness.generated_envoy import envoy_for
from integration.harness.upstream import Upstream

POLICIES = Path(__file__).parent.parent / "policies"
FRESH = [("cache-control", "max-age=60"), ("content-type", "text/plain")]


@dataclass(frozen=True, slots=True)
class Site:
    port: int
    upstream: Upstream


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    # The path of a Unix socket must be short (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="cc-", dir="/tmp") as name, Upstream() as upstream:
        directory = Path(name)
        file = ChainFile(directory / "chains.yaml")
        file.write(chains(chain("r", policy("cache", "v1.0.0", {"status_header": "x-cache"}, timeout="20s"))))
        with EngineProcess(directory, chains=file.path, policies=POLICIES) as engine:
            engine.ready()
            with envoy_for(directory, [engine.address], upstream.port, POLICIES) as envoy:
                yield Site(envoy.port, upstream)


@pytest.mark.parametrize(
    "connection",
    [
        [("connection", "x-hop, X-Other")],
        [("connection", "x-hop"), ("connection", "x-other")],
        [("connection", "keep-alive,x-other ,, X-Hop")],
    ],
    ids=["one-line", "two-lines", "odd-spaces"],
)
def test_a_hit_lacks_what_connection_lists(site: Site, connection: HeaderList, request: pytest.FixtureRequest) -> None:
    hops = [("x-hop", "1"), ("x-other", "2"), ("x-end", "3")]
    site.upstream.answer_with(Answer.of(b"one", headers=[*FRESH, *hops, *connection]))
    target = f"/r/{request.node.callspec.id}"
    first, again = (client.send(site.port, target=target) for _ in range(2))
    assert (first.header("x-cache"), again.header("x-cache"), again.body) == ("miss", "hit", b"one")
    assert [again.header(name) for name in ("x-hop", "x-other", "x-end", "connection")] == [None, None, "3", None]


def test_a_response_whose_body_needs_what_connection_lists_is_not_stored(site: Site) -> None:
    site.upstream.answer_with(Answer.of(b"one", headers=[*FRESH, ("connection", "content-type")]))
    found = [client.send(site.port, target="/r/untyped").header("x-cache") for _ in range(2)]
    assert found == ["miss", "miss"]


def test_an_upstream_that_knows_zstd_is_not_asked_for_it(site: Site) -> None:
    def packed(request: Received) -> Answer:
        wanted = ",".join(request.values("accept-encoding"))
        if "zstd" in wanted:
            return Answer.of(b"\x28\xb5\x2f\xfd", headers=[*FRESH, ("content-encoding", "zstd")])
        return Answer.of(wanted.encode(), headers=FRESH)

    site.upstream.answer_with(packed)
    browser = [("accept-encoding", "gzip, deflate, br, zstd")]
    answer = client.send(site.port, target="/r/browser", headers=browser)
    assert (answer.status, answer.body) == (200, b"gzip, deflate, br")
