"""Fixtures of the builder's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy_builder.testworld import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    # What is not in the world cannot be had: no test of the builder asks a registry.
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("DEBIAN_MIRROR", (tmp_path / "mirror").as_uri())
    return World(tmp_path)
