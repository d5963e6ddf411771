"""The form of what is counted, between whoever counts and `/metrics`: plain data that can cross the channel."""

from __future__ import annotations

from collections.abc import Mapping

Samples = dict[str, list[tuple[dict[str, str], float]]]
"""Metric name to its label sets and values."""


def label_key(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """Return the label set as a key that does not depend on the order of its labels."""
    return frozenset(labels.items())
