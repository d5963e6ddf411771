"""Watching files: every way in which files come to change, and that a burst is one change."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from policy_engine.sources import file_watch
from policy_engine.sources.file_watch import watch

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
async def watching(*paths: Path) -> AsyncIterator[Changes]:
    changes = Changes()

    async def follow() -> None:
        async with aclosing(watch(lambda: paths)) as settled:
            async for _ in settled:
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
        async with aclosing(watch(lambda: (file,), quiet=0.2)) as settled:
            await anext(settled)
            following = asyncio.ensure_future(anext(settled))
            for size in range(1, 30):
                file.write_text("x" * size)
                await asyncio.sleep(0.02)
            assert not following.done()
            await asyncio.wait_for(following, PATIENCE)

    run(test, monkeypatch)


def test_files_that_never_settle_are_reported_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "LONGEST_UNSETTLED", 0.3)

    async def test() -> None:
        file = tmp_path / "log.yaml"
        file.write_text("")
        async with watching(file) as changes:
            stop = threading.Event()

            def keep_writing() -> None:
                with file.open("a") as open_file:
                    while not stop.wait(0.005):
                        open_file.write("x")
                        open_file.flush()

            writer = threading.Thread(target=keep_writing)
            writer.start()
            try:
                await changes.one()
                await changes.one()
            finally:
                stop.set()
                writer.join()

    run(test, monkeypatch)


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
