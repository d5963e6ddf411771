from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.documents.quantities import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1s", 1.0), ("1.5s", 1.5), ("2m", 120.0), ("1h", 3600.0), ("250us", 0.00025), ("0s", 0.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "1", "s", "-1s", "+1s", "1 s", "1S", "1e3s", ".5s", "1.s", "1s2ms", "٣s", "nans", "1" * 16 + "s", "1s\n"],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration|has no unit"):
        parse_duration(text)


def test_a_number_alone_is_told_that_it_lacks_a_unit() -> None:
    with pytest.raises(ValueError, match="has no unit"):
        parse_duration("500")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        ("64KiB", 65536),
        ("10MiB", 10 << 20),
        ("1MB", 10**6),
        ("1.5KiB", 1536),
        ("1GiB", 2**30),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "10 MiB", "10mib", "0.3B", "1e3", "KiB", "1TiB", "٣", "9" * 16])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        parse_size(text)


@given(st.integers(0, 10**12).map(lambda micros: micros / 10**6))
def test_durations_survive_being_written(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 2**45))
def test_sizes_survive_being_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.text(max_size=30))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with suppress(ValueError):
            assert parse(text) >= 0
