"""Server-sent events: the standard's own cases, cut anywhere, at any length, at linear cost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_body import Event, EventBuffer, dump, event_of, events_of, parse

BOM = b"\xef\xbb\xbf"


def split(pieces: list[bytes], limit: int = 1000) -> tuple[list[bytes], bytes | None, bytes]:
    """Return the data of the whole events, of what is left at the end, and all bytes that were given."""
    buffer = EventBuffer(limit)
    events: list[Event] = []
    for piece in pieces:
        whole = buffer.feed(piece)
        events += events_of(whole, first=bool(whole) and not events)
    left = buffer.finish()
    rest = events_of(left, first=not events)
    given_back = b"".join(event.raw for event in (*events, *rest))
    return [event.data for event in events if event.data is not None], rest[-1].data if rest else None, given_back


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [b"YHOO\n+2\n10"]),
        (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n", [b"first event", b"second event"]),
        (b"data:  third event\n\n", [b" third event"]),
        (b"data\n\ndata\ndata\n\n", [b"", b"\n"]),
        (b"data:test\n\ndata: test\n\n", [b"test", b"test"]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\r\ndata: d\r\n\n", [b"a", b"b", b"c", b"d"]),
        (b"event: ping\n\nretry: 10\n\nid: 4\n\n:\n\n\n\n", []),
        (BOM + b"data: a\n\n" + BOM + b"data: no field of this name\n\n", [b"a"]),
        (b"datax: a\n\n data: b\n\nDATA: c\n\ndata : d\n\n", []),
        ("data: \u2028\u0085\x0b\n\n".encode(), ["\u2028\u0085\x0b".encode()]),
        (b"\r\n\r\rdata: a\n\n", [b"a"]),
    ],
)
def test_events_are_what_the_standard_says(stream: bytes, data: list[bytes]) -> None:
    assert split([stream]) == (data, None, stream)
    assert split([bytes([byte]) for byte in stream]) == (data, None, stream)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\r\n\r", b"\n\r"])
def test_an_event_is_given_with_the_byte_that_ends_it(end: bytes) -> None:
    buffer = EventBuffer(1000)
    assert buffer.feed(b"data: a" + end[:-1]) == b""
    assert buffer.feed(end[-1:]) == b"data: a" + end
    assert buffer.feed(b"\n") == b"\n"


@pytest.mark.parametrize(("rest", "data"), [(b"data: a", b"a"), (b"data: a\n", b"a"), (b"id: 1\r", None), (b":", None)])
def test_what_is_left_at_the_end_is_read_too(rest: bytes, data: bytes | None) -> None:
    assert split([b"data: 1\n\n" + rest]) == ([b"1"], data, b"data: 1\n\n" + rest)
    [found] = events_of(rest)
    assert split([found.completed().raw]) == ([data] if data else [], None, found.completed().raw)


STREAMS = st.lists(
    st.sampled_from(
        [
            b"data: a",
            b"data:b",
            b"data",
            b": c",
            b"id: 1",
            "data: é\u2028".encode(),
            BOM,
            b"\xff",
            b"x",
            b"\n",
            b"\r\n",
            b"\r",
            b"\n\n",
            b"\r\r",
            b"\r\n\r\n",
        ]
    )
).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 60)), st.sampled_from([5, 12, 1000]))
def test_events_are_the_same_however_the_stream_is_cut(stream: bytes, cuts: list[int], limit: int) -> None:
    places = sorted({min(cut, len(stream)) for cut in cuts})
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    assert split(pieces, limit) == split([stream], limit)
    assert split(pieces, limit)[2] == stream


@given(STREAMS, st.binary(max_size=20).filter(lambda data: b"\r" not in data))
def test_other_data_takes_the_place_of_the_old_and_nothing_else_changes(stream: bytes, data: bytes) -> None:
    for event in events_of(stream + b"\n\n"):
        if event.data is not None:
            assert split([b"\n", event.with_data(data)])[0] == [data]


def test_lines_of_an_event_keep_their_ends() -> None:
    event = Event(b"event: x\r\ndata: 1\r\n: c\rdata: 2\nid: 3\r\n\r", b"1\n2")
    assert event.with_data(b"a\nb") == b"event: x\r\n: c\rdata: a\ndata: b\nid: 3\r\n\r"
    assert Event(b"data: 1", b"1").completed().with_data(b"2") == b"data: 2\n\n"


def test_an_event_of_several_lines_comes_back() -> None:
    assert event_of(b"x\ny", name="end") == b"event: end\ndata: x\ndata: y\n\n"
    assert parse(split([event_of(dump({"a": "\u2028\n"}))])[0][0]) == {"a": "\u2028\n"}


def test_an_event_without_end_is_not_kept_for_ever() -> None:
    buffer = EventBuffer(100)
    assert buffer.feed(b"data: a\n\n" + b"x" * 100) == b"data: a\n\n"
    assert not buffer.too_large
    assert buffer.feed(b"x") == b""
    assert buffer.too_large
    assert buffer.feed(b"\n\ndata: b\n\n") == b""
    assert buffer.finish() == b"x" * 101 + b"\n\ndata: b\n\n"


@pytest.mark.parametrize("piece", [b"data: a\n\n", b"\n", b"\r", b"\r\n", b"x", b": c\n", b"data:\n", b"data: a\r\r"])
def test_the_cost_is_linear(piece: bytes) -> None:
    def cost(size: int) -> float:
        stream = piece * (size // len(piece))
        begin = time.process_time()
        buffer = EventBuffer(10 * size)
        for at in range(0, len(stream), 4096):
            events_of(buffer.feed(stream[at : at + 4096]))
        events_of(buffer.finish())
        return time.process_time() - begin

    costs = [min(cost(size) for _ in range(3)) for size in (200_000, 400_000, 800_000)]
    assert costs[2] < 10 * max(costs[0], 0.02), costs  # of 10 ms and less, noise is the larger part
