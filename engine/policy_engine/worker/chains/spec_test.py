from __future__ import annotations

import os
import pickle
import subprocess
import sys

from policy_engine.worker.chains.spec import FailureMode, PolicySpec, RouteSpec


def route(secret: str = "", **parameters: object) -> RouteSpec:
    secrets = frozenset({"/key"}) if secret else frozenset()
    values = parameters | ({"key": secret} if secret else {})
    return RouteSpec("r", (PolicySpec("p", "v1", parameters=values, secrets=secrets),))


def test_the_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert route(a=1, b={"c": 2, "d": 3}).content_hash() == route(b={"d": 3, "c": 2}, a=1).content_hash()


def test_the_hash_depends_on_everything_else() -> None:
    base = PolicySpec("p", "v1", parameters={"a": [1, 2]})
    others = [
        PolicySpec("q", "v1", parameters={"a": [1, 2]}),
        PolicySpec("p", "v2", parameters={"a": [1, 2]}),
        PolicySpec("p", "v1", parameters={"a": [2, 1]}),
        PolicySpec("p", "v1", False, parameters={"a": [1, 2]}),
        PolicySpec("p", "v1", condition="true", parameters={"a": [1, 2]}),
        PolicySpec("p", "v1", failure_mode=FailureMode.OPEN, parameters={"a": [1, 2]}),
        PolicySpec("p", "v1", timeout=2.0, parameters={"a": [1, 2]}),
    ]
    hashes = {RouteSpec("r", (one,)).content_hash() for one in (base, *others)}
    hashes |= {
        RouteSpec("s", (base,)).content_hash(),
        RouteSpec("r").content_hash(),
        RouteSpec("r", (base, base)).content_hash(),
    }
    assert len(hashes) == 11


def test_a_changed_secret_changes_the_hash() -> None:
    assert route("one").content_hash() != route("two").content_hash()
    assert route("one").content_hash() == route("one").content_hash()


def test_a_fork_sees_the_same_hash() -> None:
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, route("one").content_hash().encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == route("one").content_hash()
    os.wait()


HASHES = """
from policy_engine.worker.chains.spec import PolicySpec, RouteSpec
for secrets in (frozenset(), frozenset({"/key"})):
    print(RouteSpec("r", (PolicySpec("p", "v1", parameters={"key": "one"}, secrets=secrets),)).content_hash())
"""


def test_elsewhere_only_a_chain_with_secrets_has_another_hash() -> None:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run([sys.executable, "-c", HASHES], env=environ, check=True, capture_output=True, text=True)
    plain, secret = output.stdout.split()
    assert plain == route(key="one").content_hash()
    assert secret != route("one").content_hash()


def test_secrets_are_redacted_deep_inside() -> None:
    spec = PolicySpec(
        "p", "v1", parameters={"a/b": [{"key": "hidden"}, "seen"]}, secrets=frozenset({"/a~1b/0/key"})
    )  # fmt: skip
    assert spec.redacted_parameters() == {"a/b": [{"key": "***"}, "seen"]}
    assert "hidden" not in repr(spec) + str(spec.as_document()) + repr(RouteSpec("r", (spec,)))
    assert spec.parameters["a/b"][0]["key"] == "hidden"


def test_specs_can_be_handed_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(route("one", a=[1]))) == route("one", a=[1])
