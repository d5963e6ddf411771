"""The last known good configuration on disk: when it is used, when not, and that damage is noticed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from policy_engine.sources.xds import chain as xds_chain
from policy_engine.sources.xds.saved import Saved, SavedError, SavedResource, load, save
from policy_engine.sources.xds.source import XdsSource
from testsupport.xds_scripted_server import (
    Engine,
    Stream,
    delta,
    eventually,
    following,
    management_server,
    settings_for,
    unused_port,
    wire,
)


def test_a_restart_without_a_server_uses_the_saved_configuration_and_claims_its_versions(tmp_path: Path) -> None:
    saved = tmp_path / "chains.saved"
    firsts: list[dict[str, str]] = []

    async def script(stream: Stream, number: int) -> None:
        firsts.append(dict((await stream.read()).initial_resource_versions))
        if number == 0:
            await stream.exchange(delta("n1", "a", "b", version="3"))
        await stream.hold()

    async def run() -> None:
        port = unused_port()
        settings = settings_for(f"localhost:{port}", saved=saved)
        async with management_server(script, f"127.0.0.1:{port}"), following(settings, Engine()):
            await eventually(saved.exists)
        assert saved.stat().st_mode & 0o777 == 0o600
        engine = Engine()
        async with following(settings, engine) as source:
            await eventually(lambda: engine.applied)
            assert engine.applied == [{"a": "p", "b": "p"}]
            assert source.status.from_disk
            async with management_server(script, f"127.0.0.1:{port}"):
                await eventually(lambda: len(firsts) == 2)
                assert firsts[1] == {"a": "3", "b": "3"}

    asyncio.run(run())


def test_a_saved_chain_that_is_not_valid_any_more_is_left_out_and_not_claimed(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    resources = (SavedResource("a", "1", wire("a")), SavedResource("b", "1", wire("b", "unknown")))
    save(path, Saved(xds_chain.TYPE_URL, "delta", "1", resources))

    async def run() -> None:
        engine = Engine()
        async with following(settings_for(f"localhost:{unused_port()}", saved=path), engine) as source:
            await eventually(lambda: engine.applied)
            assert engine.applied == [{"a": "p"}]
            await eventually(lambda: source.status.from_disk)
            assert dict(source._client.start_stream().initial_resource_versions) == {"a": "1"}

    asyncio.run(run())


def test_a_server_that_answers_in_time_goes_before_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    save(path, Saved(xds_chain.TYPE_URL, "delta", "1", (SavedResource("old", "1", wire("old")),)))

    async def script(stream: Stream, _: int) -> None:
        assert not (await stream.read()).initial_resource_versions
        await stream.exchange(delta("n1", "new"))
        await stream.hold()

    async def run() -> None:
        engine = Engine()
        async with (
            management_server(script) as address,
            following(settings_for(address, saved=path, saved_after=1.0), engine) as source,
        ):
            await eventually(lambda: engine.applied)
            await asyncio.sleep(1.3)
            assert engine.applied == [{"new": "p"}]
            assert not source.status.from_disk

    asyncio.run(run())


def test_a_fault_while_it_is_put_to_use_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "saved"
    save(path, Saved(xds_chain.TYPE_URL, "delta", "1", (SavedResource("a", "1", wire("a")),)))

    async def broken(source: XdsSource, saved: Saved) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(XdsSource, "_use", broken)

    async def run() -> None:
        async with following(settings_for(f"localhost:{unused_port()}", saved=path), Engine()):
            await eventually(lambda: "last known good configuration not used: unforeseen" in caplog.text)

    asyncio.run(run())
    assert "a fault of ours" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"garbage", b"0" * 64 + b"\n{}"])
def test_a_damaged_file_is_ignored(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "saved"
    path.write_bytes(damage)
    with pytest.raises(SavedError, match="damaged"):
        load(path, xds_chain.TYPE_URL)

    async def run() -> None:
        engine = Engine()
        async with following(settings_for(f"localhost:{unused_port()}", saved=path), engine) as source:
            await asyncio.sleep(0.4)
            assert not engine.applied
            assert not source.status.from_disk

    asyncio.run(run())


def test_every_flipped_or_missing_byte_of_a_saved_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    save(path, Saved(xds_chain.TYPE_URL, "delta", "1", (SavedResource("a", "1", wire("a")),)))
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        with pytest.raises(SavedError):
            load(path, xds_chain.TYPE_URL)
        path.write_bytes(whole[:index])
        with pytest.raises(SavedError):
            load(path, xds_chain.TYPE_URL)


def test_a_directory_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    async def script(stream: Stream, _: int) -> None:
        await stream.read()
        await stream.exchange(delta("n1", "a"))
        await stream.hold()

    async def run() -> None:
        engine = Engine()
        saved = tmp_path / "missing" / "saved"
        async with (
            management_server(script) as address,
            following(settings_for(address, saved=saved), engine) as source,
        ):
            await eventually(lambda: source.status.acks == 1)
            await eventually(lambda: "cannot be written" in (source.status.last_error or ""))
            assert source.status.connected

    asyncio.run(run())
