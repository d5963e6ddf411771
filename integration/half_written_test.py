"""A running engine whose chain file is written in place by a writer that pauses: the half of a chain is never active."""

from __future__ import annotations

import json
import random
import tempfile
import threading
import time
from pathlib import Path

from integration.harness.engine import EngineProcess

POLICIES = Path(__file__).parent / "test_policies"
REWRITES = 4
HEAD = "version: v1\nroutes:\n- route_key: private\n  policies:\n"


def entries(policy: str, revision: int) -> list[str]:
    return [f"  - {{name: {policy}, version: v1, timeout: {revision}s}}\n" for _ in range(3)]


def any_policy() -> str:
    """Return a policy that needs no parameters, whichever there is."""
    for manifest in sorted(POLICIES.glob("*/v1_0_0/policy.yaml")):
        if "required:" not in manifest.read_text():
            return manifest.parent.parent.name
    raise LookupError("no policy without required parameters")


def test_the_shorter_chain_is_never_active() -> None:
    chance = random.Random(7)
    policy = any_policy()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        chains = directory / "chains.yaml"
        chains.write_text(HEAD + "".join(entries(policy, 1)))
        env = {"POLICY_ENGINE_CHAIN_FILES_SETTLE": "2s"}
        seen: list[int] = []
        stop = threading.Event()
        with EngineProcess(directory, chains=chains, policies=POLICIES, env=env) as engine:
            engine.ready()

            def look() -> None:
                while not stop.wait(0.01):
                    (route,) = engine.admin.document("/chains")["routes"]
                    seen.append(len(route["policies"]))

            looking = threading.Thread(target=look)
            looking.start()
            try:
                for revision in range(2, 2 + REWRITES):
                    with chains.open("w") as file:
                        for part in (HEAD, *entries(policy, revision)):
                            file.write(part)
                            file.flush()
                            time.sleep(chance.uniform(0.06, 0.2))
                engine.wait_until(
                    lambda: f'"timeout": {1 + REWRITES}.0' in json.dumps(engine.admin.document("/chains")),
                    what="the last chain",
                )
            finally:
                stop.set()
                looking.join()
        assert set(seen) == {3}
