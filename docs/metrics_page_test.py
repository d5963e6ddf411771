"""metrics.md is what the engine's own table says, and pages name no metric that there is not."""

from __future__ import annotations

import re

import pytest

from docs.metrics_page import PAGE, page
from policy_engine.telemetry.metrics import METRICS

_METRIC = re.compile(r"`(policy_engine_[a-z_]+)")


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m docs.metrics_page`"


@pytest.mark.parametrize("other", ["operator.md", "envoy.md", "faults.md"])
def test_metrics_that_pages_name_are_there(other: str) -> None:
    named = set(_METRIC.findall((PAGE.parent / other).read_text(encoding="utf-8")))
    known = set(_METRIC.findall(page()))
    families = {one for one in named if one.endswith("_") and any(name.startswith(one) for name in known)}
    assert named <= known | families


def test_names_are_those_of_the_exposition() -> None:
    assert not [name for name in METRICS if name.endswith("_total")]
