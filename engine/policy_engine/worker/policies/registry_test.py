from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import Policy
from policy_engine.sdk.hooks import Phase
from policy_engine.worker.policies.registry import (
    DuplicatePolicy,
    PolicyDefinition,
    Registry,
    UnknownPolicy,
    UnknownVersion,
    Version,
)


def define(name: str, version: str, source: str = "test") -> PolicyDefinition:
    return PolicyDefinition(
        name, Version.parse(version), "d", "m:C", frozenset({Phase.REQUEST_HEADERS}), {}, (), Policy, source, "sha256:0"
    )  # fmt: skip


REGISTRY = Registry(
    define(name, version)
    for name, version in [("a-b", "v1.10.0"), ("a-b", "v1.9.9"), ("a-b", "v2.0.0"), ("set-header", "v0.1.0")]
)


@pytest.mark.parametrize(
    ("name", "version", "found"),
    [("a-b", "v1", "v1.10.0"), ("a-b", "v1.9.9", "v1.9.9"), ("a-b", "v2", "v2.0.0"), ("set-header", "v0", "v0.1.0")],
)
def test_exact_and_newest_of_a_major(name: str, version: str, found: str) -> None:
    assert str(REGISTRY.resolve(name, version).version) == found


@pytest.mark.parametrize("version", ["v3", "v1.9", "v1.9.8", "1.9.9", "latest", "", "v01", "v1.10.0 ", "v٣"])
def test_versions_that_are_not_there_name_those_that_are(version: str) -> None:
    with pytest.raises(UnknownVersion, match=r"\(available: v1\.9\.9, v1\.10\.0, v2\.0\.0\)"):
        REGISTRY.resolve("a-b", version)


def test_an_unknown_policy_names_the_nearest_and_all() -> None:
    with pytest.raises(UnknownPolicy, match=r"did you mean 'set-header'\? \(available: a-b, set-header\)"):
        REGISTRY.resolve("set-heder", "v1")
    with pytest.raises(UnknownPolicy, match="built without policies"):
        Registry().resolve("x", "v1")


def test_the_same_policy_twice_names_both_places() -> None:
    with pytest.raises(DuplicatePolicy, match="in one and in two"):
        Registry([define("a", "v1.0.0", "one"), define("a", "v1.0.0", "two")])


def test_listing() -> None:
    assert REGISTRY.names() == ("a-b", "set-header")
    assert [str(one) for one in REGISTRY.versions("a-b")] == ["v1.9.9", "v1.10.0", "v2.0.0"]
    assert REGISTRY.versions("absent") == ()
    assert len(REGISTRY) == len(list(REGISTRY)) == 4


@given(st.tuples(*[st.integers(0, 999_999_999)] * 3))
def test_versions_survive_being_written(numbers: tuple[int, int, int]) -> None:
    version = Version(*numbers)
    assert Version.parse(str(version)) == version


@given(st.text(max_size=20))
def test_any_text_is_a_version_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert str(Version.parse(text)) == text
