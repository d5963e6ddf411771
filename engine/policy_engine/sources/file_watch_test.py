"""Watching files: every way in which files come to change, and that a burst is one change."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from policy_engine.sources import file_watch
from policy_engine.sources.file_watch import settled, watch

PATIENCE = 10.0
QUIET_ENOUGH = 0.4


class Changes:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[None] = asyncio.Queue()

    async def one(self) -> None:
        await asyncio.wait_for(self.queue.get(), PATIENCE)

    async def none(self) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(self.queue.get(), QUIET_ENOUGH)


@asynccontextmanager
async def watching(*paths: Path, in_place: float = 0.1) -> AsyncIterator[Changes]:
    changes = Changes()

    async def follow() -> None:
        async with aclosing(watch(lambda: paths, in_place)) as moments:
            async for _ in moments:
                changes.queue.put_nowait(None)

    task = asyncio.create_task(follow())
    await changes.one()
    try:
        yield changes
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def run(test: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "SECOND_LOOK", 3600.0)
    asyncio.run(test())  # type: ignore[arg-type] # a coroutine, typed as the awaitable that tests are written as


def rewrite(path: Path) -> None:
    path.write_text("two")


def replace(path: Path) -> None:
    new = path.with_name(".new")
    new.write_text("two")
    new.replace(path)


def replace_keeping_size_and_time(path: Path) -> None:
    state = path.stat()
    new = path.with_name(".new")
    new.write_text("eno")
    os.utime(new, ns=(state.st_atime_ns, state.st_mtime_ns))
    new.replace(path)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [rewrite, replace, replace_keeping_size_and_time, remove])
@pytest.mark.parametrize("whole_directory", [False, True])
def test_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], whole_directory: bool
) -> None:
    async def test() -> None:
        file = tmp_path / "chains.yaml"
        file.write_text("one")
        async with watching(tmp_path if whole_directory else file) as changes:
            await changes.none()
            change(file)
            await changes.one()
            await changes.none()

    run(test, monkeypatch)


def test_files_come_and_go_in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with watching(tmp_path) as changes:
            (tmp_path / "a.yaml").write_text("a")
            await changes.one()
            (tmp_path / ".hidden").write_text("editors do this")
            await changes.none()
            (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
            await changes.one()

    run(test, monkeypatch)


def test_a_file_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with watching(tmp_path / "later" / "chains.yaml") as changes:
            await changes.none()
            (tmp_path / "later").mkdir()
            (tmp_path / "later" / "chains.yaml").write_text("here")
            await changes.one()

    run(test, monkeypatch)


def write_config_map(volume: Path, revision: str, content: str) -> None:
    """What the kubelet does: a new directory, and one rename of a link to it."""
    (volume / f"..{revision}").mkdir(parents=True)
    (volume / f"..{revision}" / "chains.yaml").write_text(content)
    link = volume / "..data_tmp"
    link.symlink_to(f"..{revision}")
    link.rename(volume / "..data")
    if not (volume / "chains.yaml").is_symlink():
        (volume / "chains.yaml").symlink_to("..data/chains.yaml")


@pytest.mark.parametrize("whole_directory", [False, True])
def test_a_config_map_is_swapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_directory: bool) -> None:
    async def test() -> None:
        write_config_map(tmp_path, "1", "same size")
        async with watching(tmp_path if whole_directory else tmp_path / "chains.yaml") as changes:
            write_config_map(tmp_path, "2", "size same")
            await changes.one()
            await changes.none()

    run(test, monkeypatch)


def test_a_burst_is_one_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        file = tmp_path / "chains.yaml"
        file.write_text("")
        async with aclosing(watch(lambda: (file,), in_place=0.2)) as moments:
            await anext(moments)
            following = asyncio.ensure_future(anext(moments))
            for size in range(1, 30):
                file.write_text("x" * size)
                await asyncio.sleep(0.02)
            assert not following.done()
            await asyncio.wait_for(following, PATIENCE)

    run(test, monkeypatch)


def test_files_that_are_replaced_without_end_are_reported_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_watch, "LONGEST_UNSETTLED", 0.3)
    monkeypatch.setattr(file_watch, "SHORTEST_PAUSE", 0.005)

    async def test() -> None:
        file = tmp_path / "log.yaml"
        file.write_text("")
        async with watching(file) as changes:
            stop = threading.Event()

            def keep_replacing() -> None:
                while not stop.wait(0.005):
                    replace(file)

            with background(keep_replacing, stop):
                await changes.one()
                await changes.one()

    run(test, monkeypatch)


def test_a_file_that_is_written_without_end_is_not_reported_but_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file_watch, "TELL_AFTER", 0.3)

    async def test() -> None:
        file = tmp_path / "log.yaml"
        file.write_text("")
        async with watching(file, in_place=0.2) as changes:
            stop = threading.Event()

            def keep_writing() -> None:
                with file.open("a") as open_file:
                    while not stop.wait(0.005):
                        open_file.write("x")
                        open_file.flush()

            with background(keep_writing, stop):
                await asyncio.sleep(0.6)
                await changes.none()
            await changes.one()
        assert [record.args for record in caplog.records] == [(str(file),)]

    run(test, monkeypatch)


def test_other_files_of_a_directory_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        changes: asyncio.Queue[object] = asyncio.Queue()

        async def follow() -> None:
            async with aclosing(watch(lambda: (tmp_path,), 0.1, of_interest=lambda name: name == "a")) as moments:
                async for one in moments:
                    changes.put_nowait(one)

        task = asyncio.create_task(follow())
        await asyncio.wait_for(changes.get(), PATIENCE)
        (tmp_path / "b").write_text("b")
        await asyncio.sleep(QUIET_ENOUGH)
        assert changes.empty()
        (tmp_path / "a").write_text("a")
        await asyncio.wait_for(changes.get(), PATIENCE)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(test, monkeypatch)


def recreate(path: Path) -> None:
    path.unlink()
    path.write_text("half of it")


def move_away_and_create(path: Path) -> None:
    """As some editors save."""
    path.rename(path.with_name("backup~"))
    path.write_text("half of it")


def cut(path: Path) -> None:
    path.write_text("")


def replace_and_append(path: Path) -> None:
    replace(path)
    with path.open("a") as file:
        file.write("more")


def swap_link(path: Path) -> None:
    (path.parent / "2").mkdir()
    (path.parent / "2" / path.name).write_text("new")
    (path.parent / "new_link").symlink_to("2")
    (path.parent / "new_link").rename(path.parent / "link")


NEVER = 3600.0


@pytest.mark.parametrize("change", [rewrite, cut, recreate, move_away_and_create, remove, replace_and_append])
@pytest.mark.parametrize("whole_directory", [False, True])
def test_what_may_be_half_of_something_rests_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], whole_directory: bool
) -> None:
    async def test() -> None:
        file = tmp_path / "chains.yaml"
        file.write_text("one and a half")
        settle_long_ago(file)
        async with watching(tmp_path if whole_directory else file, in_place=NEVER) as changes:
            change(file)
            await changes.none()

    run(test, monkeypatch)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells a rename from a write")
@pytest.mark.parametrize("change", [replace, replace_keeping_size_and_time])
@pytest.mark.parametrize("whole_directory", [False, True])
def test_what_was_renamed_into_place_is_taken_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], whole_directory: bool
) -> None:
    async def test() -> None:
        file = tmp_path / "chains.yaml"
        file.write_text("one")
        settle_long_ago(file)
        async with watching(tmp_path if whole_directory else file, in_place=NEVER) as changes:
            for _ in range(3):
                change(file)
                await changes.one()

    run(test, monkeypatch)


def test_a_swapped_link_is_taken_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "chains.yaml").write_text("one")
        (tmp_path / "link").symlink_to("1")
        (tmp_path / "chains.yaml").symlink_to("link/chains.yaml")
        settle_long_ago(tmp_path / "chains.yaml")
        async with watching(tmp_path / "chains.yaml", in_place=NEVER) as changes:
            swap_link(tmp_path / "chains.yaml")
            await changes.one()

    run(test, monkeypatch)


def test_a_file_that_was_written_a_moment_ago_rests_at_the_start_too(tmp_path: Path) -> None:
    async def test() -> None:
        file = tmp_path / "chains.yaml"
        file.write_text("half")
        async with aclosing(watch(lambda: (file,), in_place=NEVER)) as changes:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(changes), QUIET_ENOUGH)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(settled(lambda: (file,), in_place=NEVER), QUIET_ENOUGH)
        settle_long_ago(file)
        moment = await asyncio.wait_for(settled(lambda: (file,), in_place=NEVER), PATIENCE)
        assert moment.still()
        file.write_text("more")
        assert not moment.still()

    asyncio.run(test())


def settle_long_ago(file: Path) -> None:
    """Make a file, and its directory, look as if nobody had written to it for hours."""
    for one in (file, file.parent):
        os.utime(one, (1e9, 1e9))


@contextmanager
def background(work: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_change_is_looked_at_a_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(file_watch, "SECOND_LOOK", 0.2)
        file = tmp_path / "chains.yaml"
        async with watching(file) as changes:
            file.write_text("one")
            await changes.one()
            await changes.one()
            await changes.none()

    run(test, monkeypatch)


def test_the_thread_ends_with_the_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with watching(tmp_path):
            threads = [one for one in threading.enumerate() if one.name == "file-watch"]
            assert len(threads) == 1
        await asyncio.to_thread(threads[0].join, PATIENCE)
        assert not threads[0].is_alive()

    run(test, monkeypatch)
