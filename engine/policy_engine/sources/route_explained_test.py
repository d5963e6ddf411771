"""`validate --explain KEY`: which route a key meets, where it stands, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy_engine.cli import main
from policy_engine.kernel.routes import Routes
from policy_engine.sources.chain_reader import ChainReader
from policy_engine.sources.route_explained import explain_key
from policy_engine.worker.chains.compiler import Compiler
from policy_engine.worker.policies.loader import load_policy_tree
from policy_engine.worker.policies.registry import Registry
from testsupport.policy_directories import write_policy

CHAINS = """version: v1
shared:
  all: [{name: tested, version: v1, mode: shadow, share: 5%}]
routes:
- {route_key: "*", policies: []}
- {route_key: "shop/*", policies: [use: all, {name: tested, version: v1, condition: request.path == "/"}]}
- {route_key: "shop/orders", policies: [], body_limit: 1KiB}
- {route_key: "old/*", unmapped: deny}
"""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    write_policy(tmp_path / "policies")
    registry, diagnostics = load_policy_tree(tmp_path / "policies")
    assert registry is not None, diagnostics
    return registry


def explained(tmp_path: Path, registry: Registry, key: str, text: str = CHAINS, *, passes: bool = False) -> str:
    file = tmp_path / "chains.yaml"
    file.write_text(text)
    return explain_key(key, [file], ChainReader(registry), passes=passes).replace(str(tmp_path), "")


def test_the_own_key(tmp_path: Path, registry: Registry) -> None:
    assert explained(tmp_path, registry, "shop/orders") == (
        "'shop/orders' meets the route 'shop/orders' (/chains.yaml:7): a route has this very key\n"
        "  no policies: requests pass unchanged\n"
        "  bodies up to 1024 bytes\n"
        "these match too, and come after it:\n"
        "  'shop/*' (/chains.yaml:6), 5 literal characters and 1 star\n"
        "  '*' (/chains.yaml:5), 0 literal characters and 1 star\n"
    )


def test_the_most_specific_pattern(tmp_path: Path, registry: Registry) -> None:
    text = explained(tmp_path, registry, "shop/1")
    assert "meets the route 'shop/*' (/chains.yaml:6): the most specific of 2 patterns that match" in text
    assert "  1. tested v1.0.0 (in shadow; 5% of the requests, by request.id)" in text
    assert '  2. tested v1.0.0 (if request.path == "/")' in text


def test_keys_that_count_as_unmapped_or_meet_nothing(tmp_path: Path, registry: Registry) -> None:
    assert "its keys count as unmapped: requests are denied with 500" in explained(tmp_path, registry, "old/1")
    only = 'version: v1\nroutes: [{route_key: "shop/orders", policies: []}]'
    found = explained(tmp_path, registry, "shop/order", only)
    assert found == (
        "'shop/order' meets no route: its requests are denied with 500 (unmapped_routes); nearest keys: shop/orders\n"
    )
    assert "pass without policies" in explained(tmp_path, registry, "x", only, passes=True)


def test_it_says_what_the_kernel_does(tmp_path: Path, registry: Registry) -> None:
    file = tmp_path / "chains.yaml"
    file.write_text(CHAINS)
    from policy_engine.sources.chain_file import load_chain_paths

    chains = load_chain_paths([file], ChainReader(registry)).chains
    assert chains is not None
    routes = Routes(Compiler(registry).compile(chains), {})
    for key in ("shop/orders", "shop/1", "shop/", "old/x", "x", "*", "shop/*"):
        route = routes.get(key)
        assert route is not None
        assert f"meets the route {route.chain.route_key!r} " in explained(tmp_path, registry, key)


def test_the_command(tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "chains.yaml"
    file.write_text(CHAINS)
    command = ["validate", str(file), "--policies-directory", str(tmp_path / "policies"), "--explain", "shop/2"]
    assert main(command) == 0
    assert "meets the route 'shop/*'" in capsys.readouterr().out
    assert main([*command, "--json"]) == 2
    file.write_text(CHAINS.replace("v1,", "v9,"))
    assert main(command) == 1
    assert "meets" not in capsys.readouterr().out
