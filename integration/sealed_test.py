"""The engine where it can write no file, as an unnamed user without a home: as in the image, on a machine without one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from integration.end_to_end import GUARD, OFFLOADED, prompt
from integration.harness.chain_file import ChainFile, chain, chains
from integration.harness.client import send
from integration.harness.engine import EngineProcess
from integration.harness.envoy import EnvoyProcess
from integration.harness.envoy_config import Bootstrap, Route
from integration.harness.upstream import Upstream

POLICIES = Path(__file__).parent.parent / "policies"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_large_bodies_are_read_in_helper_processes(workers: str) -> None:
    with tempfile.TemporaryDirectory(prefix="se-", dir="/tmp") as name, Upstream() as upstream:
        directory = Path(name)
        file = ChainFile(directory / "chains.yaml")
        file.write(chains(chain("guarded", GUARD)))
        env = {"POLICY_ENGINE_WORKERS": workers}
        with EngineProcess(directory, chains=file.path, policies=POLICIES, tcp=True, sealed=True, env=env) as engine:
            engine.ready()
            bootstrap = Bootstrap(
                routes=[Route(prefix="/", name="guarded")], engine=engine.address, upstream_port=upstream.port
            )
            with EnvoyProcess(bootstrap, directory) as proxy:
                port = proxy.ready().port
                for words, status in (("well known", 200), ("forbidden", 403)):
                    headers = [("content-type", "application/json")]
                    assert send(port, "POST", "/", headers=headers, body=prompt(words)).status == status
            calls = engine.admin.samples(OFFLOADED)
            assert calls[(("outcome", "done"),)] == sum(calls.values()) == 2
            file.write(chains(chain("guarded", GUARD), chain("other", GUARD)))
            engine.wait_until(lambda: engine.admin.history()["accepted"] == 2, what="on its second configuration")
            assert _user(engine.pid) == 65532
        assert "Traceback" not in engine.log()


def _user(pid: int) -> int:
    """Return the one user id that there is in the process's own namespace (user_namespaces(7))."""
    inside, _, count = Path(f"/proc/{pid}/uid_map").read_text().split()
    assert count == "1"
    return int(inside)
