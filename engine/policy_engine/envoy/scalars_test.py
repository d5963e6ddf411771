"""What the product writes for Envoy means the same to Envoy: every file is read back as Envoy's YAML reader reads it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.envoy.bootstrap import Sample, bootstrap, render
from policy_engine.envoy.demands import ChainDemand, Demands
from policy_engine.envoy.filter_config import fragments
from policy_engine.envoy.scalars import is_plain_text
from policy_engine.settings.model import Settings
from policy_engine.settings.route_key import route_key_of

BOOLEANS = {"y", "yes", "true", "on", "n", "no", "false", "off"}
ODD: tuple[str, ...] = (
    "n",
    "y",
    "N",
    "No",
    "YES",
    "on",
    "Off",
    "true",
    "~",
    "null",
    "Null",
    "1e3",
    "1E+3",
    "0x1F",
    "017",
    "0o17",
    "-1",
)
ODD += (
    "+5",
    ".0_0",
    "1.2_3",
    ".5",
    "5.",
    "inf",
    "-INF",
    ".nan",
    "NaN",
    "1_000",
    "0x1p3",
    "1:30",
    "=",
    "<<",
    "a: b",
    "- a",
    "#a",
    "",
    " ",
)


def as_envoy_reads(text: str) -> Any:
    """Return the file as Envoy has it: yaml-cpp's nodes, plain scalars tried as boolean, integer, number (protobuf's
    yaml loader in source/common/protobuf/yaml_utility.cc), quoted ones text."""
    return _value(yaml.compose(text, Loader=yaml.BaseLoader))


def _value(node: Any) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {key.value: _value(inner) for key, inner in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_value(inner) for inner in node.value]
    return _scalar(node.value) if node.style is None else node.value


def _scalar(text: str) -> Any:
    if text.lower() in BOOLEANS and text in (text.lower(), text.upper(), text.capitalize()):
        return text.lower() in ("y", "yes", "true", "on")
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    for read in (lambda: int(text, 0), lambda: float.fromhex(text) if "0x" in text.lower() else float(text)):
        try:
            return read()
        except ValueError:
            continue
    if text.lower().lstrip("+-") in (".inf", ".nan"):
        return float(text.replace(".", ""))
    return text


def _demands(*keys: str) -> Demands:
    chains = {
        key: ChainDemand(key, runs=True, modes={}, slowest_answer=1.0, fails_closed=False, acts_on_request=False)
        for key in keys
    }
    return Demands(chains, 1 << 20, route_key_of(Settings().route_key), False, ("127.0.0.1:9002",), False)


@pytest.mark.parametrize("key", ODD)
def test_an_odd_route_key_stays_text(key: str) -> None:
    for config in (bootstrap(_demands(key), Sample()), fragments(_demands(key))):
        assert as_envoy_reads(render(config)) == config


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(max_size=12) | st.from_regex(r"[-+.0-9a-fxonyesNY_:~]{1,8}", fullmatch=True), unique=True))
def test_any_route_keys_stay_text(keys: list[str]) -> None:
    config = bootstrap(_demands(*keys), Sample())
    assert as_envoy_reads(render(config)) == config


@settings(deadline=None)
@given(st.text(max_size=8) | st.from_regex(r"[-+.0-9a-fxonyesNY_]{1,8}", fullmatch=True))
def test_what_is_written_without_quotes_is_text_to_envoy(text: str) -> None:
    if is_plain_text(text):
        assert _scalar(text) == text
