"""From settings to a client: the connection, and chains checked as chain files are."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy_engine.sdk import Policy
from policy_engine.settings.model import XdsSettings, XdsTlsSettings
from policy_engine.sources.chain_reader import ChainReader
from policy_engine.sources.xds.following import route_reader, xds_connection
from policy_engine.sources.xds.protocol import Variant
from policy_engine.worker.policies.registry import PolicyDefinition, Registry, Version

SCHEMA = {
    "type": "object",
    "properties": {"limit": {"type": "integer", "default": 5}},
    "additionalProperties": False,
}
KNOWN = PolicyDefinition("known", Version(1, 0, 0), "", "m:C", frozenset(), SCHEMA, (), Policy, "test", "0")


def test_settings_become_a_connection() -> None:
    tls = XdsTlsSettings(Path("ca"), Path("cert"), Path("key"))
    connection = xds_connection(XdsSettings("plane:1", "engine-1", False, Path("saved"), tls))
    assert (connection.addresses, connection.node_id) == (("plane:1",), "engine-1")
    assert connection.variant is Variant.STATE_OF_THE_WORLD
    assert connection.saved == Path("saved")
    assert connection.tls is not None
    assert connection.tls.key == Path("key")


def test_without_a_ca_there_is_no_tls_and_the_host_name_is_the_node() -> None:
    connection = xds_connection(XdsSettings("plane:1"))
    assert connection.tls is None
    assert connection.node_id
    assert connection.variant is Variant.DELTA


def test_without_a_server_there_is_nothing_to_follow() -> None:
    with pytest.raises(ValueError, match=r"xds\.server"):
        xds_connection(XdsSettings())


def test_a_chain_gets_its_defaults_and_every_mistake_is_told() -> None:
    read = route_reader(ChainReader(Registry([KNOWN])))
    good = {"route_key": "r", "policies": [{"name": "known", "version": "v1", "parameters": {}}]}
    (entry,) = read(good).policies
    assert entry.parameters == {"limit": 5}
    assert (entry.version, entry.written_version) == ("v1.0.0", "v1")
    bad = {
        "route_key": "r",
        "policies": [{"name": "known", "version": "v9", "parameters": {"limit": "x"}}, {"name": "no"}],
    }
    with pytest.raises(ValueError, match="v9") as caught:
        read(bad)
    assert "/policies/1" in str(caught.value)
