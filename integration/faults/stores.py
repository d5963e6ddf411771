"""Faults of a Redis that counts for rate-limit: gone, silent, demoted, its first address dead."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path

from integration.faults.changes import MARKED
from integration.faults.scenario import Measured, Promise, Scenario, Terms
from integration.faults.site import POLICIES, site
from integration.harness import client
from integration.harness.chain_file import Document, chain, chains, policy
from integration.harness.door import Door, dead_address
from policy_redis.testing import RedisServer, free_port, redis_server

_AWAY_S = 4.0
SECOND_ADDRESS = "127.0.0.2"


def _limited(url: str, on_store_error: str) -> Document:
    parameters = {
        "limits": ["1000000/hour"],
        "strategy": "fixed-window",
        "key": [{"source": "constant", "value": "all"}],
        "on_store_error": on_store_error,
        "redis": {"url": url},
    }
    return chains(chain("r", policy("rate-limit", "v1", parameters), MARKED))


def _while(terms: Terms, on_store_error: str, act: str) -> Measured:
    with (
        redis_server() as redis,
        site(_limited(redis.url, on_store_error), POLICIES, terms.engines) as running,
        running.loaded(terms) as course,
    ):
        {"stop": redis.stop, "freeze": redis.freeze}[act]()
        time.sleep(_AWAY_S)
        {"stop": redis.start, "freeze": redis.thaw}[act]()
        course.fault_ends()
        course.whole_again(lambda: client.send(running.port, target="/r/x").status == 200, "answering")
    return course.measured()


def gone_local(terms: Terms) -> Measured:
    """Redis ends and comes back; meanwhile each process counts for itself."""
    return _while(terms, "local", "stop")


def gone_deny(terms: Terms) -> Measured:
    """Redis ends and comes back; meanwhile requests are denied."""
    return _while(terms, "deny", "stop")


def silent_local(terms: Terms) -> Measured:
    """Redis accepts connections and answers nothing."""
    return _while(terms, "local", "freeze")


def silent_deny(terms: Terms) -> Measured:
    """The same, and requests are denied."""
    return _while(terms, "deny", "freeze")


def demoted(terms: Terms) -> Measured:
    """The primary becomes a replica; its address leads to the new primary, as a Service of Kubernetes does."""
    old_port, new_port = free_port(), free_port()
    with redis_server(port=old_port) as old, redis_server(port=new_port) as new, Door(old_port) as door:
        document = _limited(f"redis://127.0.0.1:{door.port}/0", "deny")
        with site(document, POLICIES, terms.engines) as running, running.loaded(terms) as course:
            door.to = new_port
            _tell(old, f"REPLICAOF 127.0.0.1 {new_port}")
            course.whole_again(lambda: client.send(running.port, target="/r/x").status == 200, "answering")
            course.expect(_tell(new, "DBSIZE") != b":0\r\n", "the new primary counted nothing")
    return course.measured()


def _tell(redis: RedisServer, command: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(redis.path))
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(100)


def first_address_dead(terms: Terms) -> Measured:
    """The name has two addresses, of which the first drops what is sent to it; Redis starts again meanwhile."""
    port = free_port()
    with (
        tempfile.TemporaryDirectory() as name,
        redis_server(port=free_port()) as redis,
        dead_address(port),
        Door(redis.port, SECOND_ADDRESS, port),
    ):
        document = _limited(f"redis://localhost:{port}/0", "deny")
        hosts = two_addresses(Path(name))
        with site(document, POLICIES, terms.engines, hosts=hosts) as running, running.loaded(terms) as course:
            redis.stop()
            redis.start()
            course.fault_ends()
            course.whole_again(lambda: client.send(running.port, target="/r/x").status == 200, "answering")
    return course.measured()


def two_addresses(directory: Path) -> Path:
    """Write a file of hosts in which `localhost` has a first address and a second one."""
    hosts = directory / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{SECOND_ADDRESS} localhost\n")
    hosts.chmod(0o644)
    return hosts


_LOCAL = Promise(failed=0, recovered=8.0, also="counted in process meanwhile")
_DENIED = Promise(failed=None, recovered=8.0)
SCENARIOS = (
    Scenario(name="redis-gone", fault="Redis gone for 4 s, `on_store_error: local`", run=gone_local, promise=_LOCAL),
    Scenario(name="redis-gone-deny", fault="Redis gone for 4 s, `deny`", run=gone_deny, promise=_DENIED),
    Scenario(
        name="redis-silent",
        fault="Redis answers nothing for 4 s, `on_store_error: local`",
        run=silent_local,
        promise=_LOCAL,
    ),
    Scenario(name="redis-silent-deny", fault="Redis answers nothing for 4 s, `deny`", run=silent_deny, promise=_DENIED),
    Scenario(name="redis-demoted", fault="the primary demoted, another in its place", run=demoted, promise=_DENIED),
    Scenario(
        name="redis-first-address-dead",
        fault="the first address of Redis drops packets, and Redis starts again",
        run=first_address_dead,
        promise=_DENIED,
    ),
)
