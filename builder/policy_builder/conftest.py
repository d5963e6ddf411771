"""Fixtures of the builder's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from policy_builder.testregistry import Server, scripted
from policy_builder.testworld import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    # What is not in the world cannot be had: no test of the builder asks a registry.
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("DEBIAN_MIRROR", (tmp_path / "mirror").as_uri())
    return World(tmp_path)


@pytest.fixture
def no_logins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Hide every login of this machine; return the directory for docker's config.json."""
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


@pytest.fixture
def misbehaving(no_logins: Path) -> Iterator[Server]:
    """Run a registry that does what the test tells it to."""
    with scripted(Server({})) as server:
        yield server
