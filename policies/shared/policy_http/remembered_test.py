"""What is remembered, for how long, and that one question is asked once at a time."""

from __future__ import annotations

from concurrent.futures import Future

from policy_http import Kept, Remembered


class Calls:
    """Calls that a test answers, on a clock that it moves."""

    def __init__(self, most: int = 2) -> None:
        self.now = 0.0
        self.made: list[Future[Kept[str]]] = []
        self.memory: Remembered[str] = Remembered(most, clock=lambda: self.now)

    def _start(self) -> Future[Kept[str]]:
        self.made.append(Future())
        return self.made[-1]

    def ask(self, key: bytes = b"k") -> str | None:
        found = self.memory.find(key, self._start)
        return found if isinstance(found, str) else None

    def answered(self, key: bytes, kept: Kept[str]) -> None:
        assert self.ask(key) is None
        self.made[-1].set_result(kept)


def test_an_answer_is_kept_for_as_long_as_it_says() -> None:
    calls = Calls()
    calls.answered(b"k", Kept("a", 10))
    calls.now = 9.9
    assert calls.ask() == "a"
    calls.now = 10
    assert calls.ask() is None
    calls.made[-1].set_result(Kept("b", 0))
    assert calls.ask() is None


def test_one_call_for_all_who_ask_and_a_new_one_after_a_failure() -> None:
    calls = Calls()
    assert [calls.ask() for _ in range(5)] == [None] * 5
    assert len(calls.made) == 1
    calls.made[0].set_exception(ValueError())
    assert calls.ask() is None
    assert len(calls.made) == 2


def test_it_is_asked_again_ahead_of_its_end_and_nobody_waits() -> None:
    calls = Calls()
    calls.answered(b"k", Kept("a", 10, refresh_after=7))
    calls.now = 8
    assert [calls.ask() for _ in range(3)] == ["a"] * 3
    assert len(calls.made) == 2
    calls.made[1].set_exception(ValueError())
    assert calls.ask() == "a", "the old one serves to its end"
    calls.now = 9.5
    assert calls.ask() == "a"
    calls.made[-1].set_result(Kept("b", 10))
    assert calls.ask() == "b"


def test_after_a_failed_refresh_the_server_is_left_alone_for_a_second() -> None:
    calls = Calls()
    calls.answered(b"k", Kept("a", 100, refresh_after=1))
    calls.now = 2
    calls.ask()
    calls.made[-1].set_exception(ValueError())
    for calls.now in (2.1, 2.5, 2.9):
        assert calls.ask() == "a"
    assert len(calls.made) == 2
    calls.now = 3.1
    calls.ask()
    assert len(calls.made) == 3


def test_what_anybody_can_ask_for_pushes_out_nothing_else() -> None:
    calls = Calls(most=2)
    calls.answered(b"good", Kept("good", 100))
    for number in range(10):
        calls.answered(b"%d" % number, Kept("bad", 100, cheap=True))
    assert [calls.ask(key) for key in (b"good", b"9", b"8")] == ["good", "bad", "bad"]
    assert calls.ask(b"7") is None
    for number in range(3):
        calls.answered(b"g%d" % number, Kept("good", 100))
    assert calls.ask(b"good") is None


def test_a_changed_answer_takes_the_place_of_the_old_one() -> None:
    calls = Calls()
    calls.answered(b"k", Kept("bad", 1, cheap=True))
    calls.now = 2
    calls.answered(b"k", Kept("good", 10))
    assert calls.ask() == "good"
    calls.memory.forget(b"k")
    assert calls.ask() is None


def test_nothing_is_kept_where_nothing_may_be() -> None:
    calls = Calls(most=0)
    calls.answered(b"k", Kept("a", 100))
    assert calls.ask() is None
