"""The conversation of a hand-over: both ends in one process, each of the ways in which it can go wrong."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from policy_engine.processes import handover
from policy_engine.processes.channel import Channel
from policy_engine.processes.handover import HandedOver, HandOver, HandOverFailed, TakeOver, take_over
from policy_engine.processes.listening import Given, Listening
from policy_engine.processes.passing import MOST_DESCRIPTORS, send_descriptors
from policy_engine.processes.service_manager import ServiceManager
from policy_engine.transport.listen import bind, bound_address


@pytest.fixture
def place() -> Iterator[Path]:
    """Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7))."""
    with tempfile.TemporaryDirectory(prefix="ho-", dir="/tmp") as name:
        yield Path(name)


class Running:
    """An engine that serves and can be taken over from."""

    def __init__(self, place: Path, listening: list[Listening], manager: ServiceManager | None = None) -> None:
        self.path = place / "upgrade.sock"
        self.listening = listening
        self.handed_over: list[HandedOver] = []
        self.starting = ""
        self.end = HandOver(
            self.path, self._sockets, self.handed_over.append, manager or ServiceManager(), lambda: self.starting
        )

    async def _sockets(self, until: ExitStack) -> list[Listening]:
        return list(self.listening)

    async def take_over(self) -> TakeOver:
        """Get its sockets, as another process would: its own loop has to run meanwhile."""
        return await asyncio.to_thread(take_over, self.path, "2.0")


@asynccontextmanager
async def running(place: Path, *addresses: str, manager: ServiceManager | None = None) -> AsyncIterator[Running]:
    listening = [Listening(one, bind(one)) for one in addresses]
    engine = Running(place, listening, manager)
    engine.end.start(Given())
    try:
        yield engine
    finally:
        await engine.end.stop("the test is over")
        for one in listening:
            one.sock.close()
        await asyncio.sleep(0)


async def finish(other: TakeOver, *, ready: bool = True) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if ready:
        future.set_result(None)
    await other.finish(future, lambda: "workers are missing")


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until_idle(engine: Running) -> None:
    """Wait until the conversation is over for the engine that runs."""
    async with asyncio.timeout(5):
        while engine.end._callers:  # noqa: ASYNC110 - what ends them is another task's
            await asyncio.sleep(0.01)


def test_what_waits_in_a_backlog_is_accepted_by_the_engine_that_took_over(place: Path) -> None:
    async def run() -> None:
        async with running(place, "127.0.0.1:0", f"unix:{place}/e.sock") as engine:
            tcp, unix = engine.listening
            waiting = [socket.create_connection(tcp.sock.getsockname()), socket.socket(socket.AF_UNIX)]
            waiting[1].connect(f"{place}/e.sock")
            for number, client in enumerate(waiting):
                client.sendall(b"%d" % number)
            other = await engine.take_over()
            taken = [other.given.take(address) for address in (bound_address(tcp.sock), f"unix:{place}/e.sock")]
            assert engine.handed_over == []
            await finish(other)
            await until_idle(engine)
            assert engine.handed_over == [HandedOver(os.getpid(), frozenset({tcp.address, unix.address}))]
            for one in engine.listening:
                one.sock.close()
            for number, sock in enumerate(taken):
                assert sock is not None
                accepted, _ = sock.accept()
                with accepted, sock, waiting[number]:
                    assert accepted.recv(10) == b"%d" % number

    asyncio.run(run())


def test_addresses_are_the_same_however_they_are_written_and_get_the_mode_that_is_written(place: Path) -> None:
    async def run() -> None:
        async with running(place, "localhost:0", f"unix:{place}/e.sock?mode=0600") as engine:
            port = engine.listening[0].sock.getsockname()[1]
            other = await engine.take_over()
            assert other.given.take(f"127.0.0.2:{port}") is None
            assert other.given.take(f"127.0.0.1:{port}") is not None
            assert other.given.take(f"127.0.0.1:{port}") is None
            assert other.given.take(f"unix:{place}/e.sock?mode=0666") is not None
            assert stat.S_IMODE((place / "e.sock").stat().st_mode) == 0o666
            other.given.close()

    asyncio.run(run())


def test_the_socket_is_for_the_engine_s_user_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with running(place) as engine:
            assert stat.S_IMODE(engine.path.stat().st_mode) == 0o600
            # Whoever gets past the mode, as with a directory that was moved, is known by the kernel.
            monkeypatch.setattr(handover, "_CREDENTIALS", _Stranger())
            with pytest.raises(HandOverFailed, match="of user 4242"):
                await engine.take_over()
            monkeypatch.setattr(handover, "_caller", lambda sock: (1, "") if sock.getsockname() == "" else (1, "no"))
            with pytest.raises(HandOverFailed, match="did not hand over"):
                await engine.take_over()
            assert engine.handed_over == []

    asyncio.run(run())


class _Stranger:
    size = handover._CREDENTIALS.size

    def unpack(self, _: bytes) -> tuple[int, int, int]:
        return 7, 4242, 4242


@pytest.mark.parametrize("what", ["ends", "fails", "is not ready", "is not wanted"])
def test_an_engine_that_does_not_become_ready_changes_nothing_and_another_can_come(place: Path, what: str) -> None:
    async def run() -> None:
        async with running(place, "127.0.0.1:0") as engine:
            other = await engine.take_over()
            if what == "ends":
                other._sock.close()
            else:
                other.seconds = 0.1 if what == "is not ready" else 5.0
                other.wanted = lambda: what != "is not wanted"
                ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                if what == "fails":
                    ready.set_exception(HandOverFailed("its configuration is not valid"))
                elif what == "is not wanted":
                    ready.set_result(None)
                reasons = {
                    "fails": "its configuration is not valid",
                    "is not ready": "not ready within 0.1 s: workers are missing",
                    "is not wanted": "was interrupted",
                }
                with pytest.raises(HandOverFailed, match=reasons[what]):
                    await other.finish(ready, lambda: "workers are missing")
            other.given.close()
            await until_idle(engine)
            assert engine.handed_over == []
            assert engine.path.exists()
            again = await engine.take_over()
            assert again.given.take(engine.listening[0].address) is not None
            await finish(again)
            await until_idle(engine)
            assert len(engine.handed_over) == 1

    asyncio.run(run())


def test_one_upgrade_at_a_time_and_the_next_from_the_one_that_took_over(place: Path) -> None:
    async def run() -> None:
        async with running(place, "127.0.0.1:0") as first:
            other = await first.take_over()
            with pytest.raises(HandOverFailed, match=f"another upgrade is under way, by process {os.getpid()}"):
                await first.take_over()
            sock = other.given.take(first.listening[0].address)
            assert sock is not None
            await finish(other)
            await until_idle(first)
            second = Running(place, [Listening(first.listening[0].address, sock)])
            second.end.start(other.given)
            third = await second.take_over()
            assert third.given.take(first.listening[0].address) is not None
            await finish(third)
            await until_idle(second)
            assert (len(first.handed_over), len(second.handed_over)) == (1, 1)
            # The one before ends later, and takes nothing away.
            await first.end.stop("over")
            assert first.path.exists()

    asyncio.run(run())


@pytest.mark.parametrize("told", ["is told to end", "is killed"])
def test_what_becomes_of_the_new_engine_when_the_one_that_runs(place: Path, told: str) -> None:
    async def run() -> None:
        async with running(place, "127.0.0.1:0") as engine:
            other = await engine.take_over()
            ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            finishing = asyncio.ensure_future(other.finish(ready, str))
            await asyncio.sleep(0.05)
            if told == "is told to end":
                await engine.end.stop("it is being stopped")
                with pytest.raises(HandOverFailed, match="it is being stopped"):
                    await finishing
                assert not engine.path.exists()
            else:
                for task in engine.end._callers:
                    task.cancel()
                await asyncio.sleep(0.05)
                assert not finishing.done()
                ready.set_result(None)
                await finishing
            assert engine.handed_over == []

    asyncio.run(run())


def test_what_cannot_hand_over_says_why(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        with pytest.raises(HandOverFailed, match=r"no engine that hands over waits at .*upgrade\.sock"):
            await asyncio.to_thread(take_over, place / "upgrade.sock", "2.0")
        async with running(place) as engine:
            engine.starting = "the engine that runs is still starting"
            with pytest.raises(HandOverFailed, match="still starting"):
                await engine.take_over()
            engine.starting = ""
            with monkeypatch.context() as changed:
                changed.setattr(handover, "_is_part_of_ours", lambda pid: False)
                assert isinstance(await engine.take_over(), TakeOver)
                await until_idle(engine)
                engine.end._manager = ServiceManager("/run/systemd/notify")
                with pytest.raises(HandOverFailed, match="systemctl reload"):
                    await engine.take_over()
                engine.end._manager = ServiceManager(started=True)
                with pytest.raises(HandOverFailed, match="Type=notify"):
                    await engine.take_over()
                changed.setattr(os, "getpid", lambda: 1)
                with pytest.raises(HandOverFailed, match="process 1 of its container"):
                    await engine.take_over()
            engine.end._manager = ServiceManager()
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(engine.path))
                send_descriptors(sock, {"protocol": 99}, ())
                assert b"hands over by protocol 99 and the one that runs by 1" in await asyncio.to_thread(
                    sock.recv, 1000
                )
            assert engine.handed_over == []

    asyncio.run(run())


@pytest.mark.parametrize("said", [b"", b"\0", b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"\0\0\0\4nope", b"\0\0\0\2{}"])
def test_who_talks_nonsense_gets_nothing_and_holds_up_nobody(
    place: Path, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "HELLO_SECONDS", 0.2)

    async def run() -> None:
        async with running(place, "127.0.0.1:0") as engine:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(engine.path))
                sock.sendall(said)
                await asyncio.sleep(0.05)
                other = await engine.take_over()
                other.given.close()
                other._sock.close()
                await until_idle(engine)
                sock.settimeout(5)
                received, descriptors, _, _ = await asyncio.to_thread(socket.recv_fds, sock, 4096, 10)
                assert descriptors == []
                assert received == b"" or b"refused" in received

    asyncio.run(run())


def test_no_descriptor_stays_behind_however_many_upgrades_fail(place: Path) -> None:
    async def run() -> None:
        async with running(place, *["127.0.0.1:0"] * (2 * MOST_DESCRIPTORS + 3)) as engine:
            before = None
            for _ in range(4):
                other = await engine.take_over()
                taken = [other.given.take("127.0.0.1:0") for _ in engine.listening]
                assert len({one.fileno() for one in taken if one is not None}) == len(engine.listening)
                other.seconds = 0.01
                with pytest.raises(HandOverFailed):
                    await finish(other, ready=False)
                for one in taken:
                    assert one is not None
                    one.close()
                other.given.close()
                other.forget_output()
                await until_idle(engine)
                await asyncio.sleep(0.05)
                now = open_descriptors()
                before = before or now
                assert now == before

    asyncio.run(run())


def test_a_message_with_other_descriptors_than_it_names_is_refused_and_they_are_closed(place: Path) -> None:
    async def run() -> None:
        with bind(f"unix:{place}/upgrade.sock") as listening, bind("127.0.0.1:0") as sock:
            listening.setblocking(True)
            open_before = open_descriptors()

            def answer() -> None:
                caller, _ = listening.accept()
                with caller:
                    send_descriptors(caller, {"addresses": ["a", "b"]}, [sock.fileno()])
                    caller.recv(1000)

            answering = asyncio.create_task(asyncio.to_thread(answer))
            with pytest.raises(HandOverFailed, match="did not hand over"):
                await asyncio.to_thread(take_over, place / "upgrade.sock", "2.0")
            await answering
            assert open_descriptors() == open_before

    asyncio.run(run())


def test_the_service_manager_is_told_which_process_the_service_is_now(place: Path) -> None:
    async def run() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(f"{place}/notify")
            async with running(place, manager=ServiceManager(f"{place}/notify")) as engine:
                other = await engine.take_over()
                assert other.manager.address == f"{place}/notify"
                await finish(other)
                await until_idle(engine)
                assert manager.recv(1000).decode().splitlines()[0] == f"MAINPID={os.getpid()}"

    asyncio.run(run())


def test_a_channel_that_closes_right_after_ready_hands_nothing_over(place: Path) -> None:
    async def run() -> None:
        async with running(place, "127.0.0.1:0") as engine:
            other = await engine.take_over()
            channel = await Channel.over(other._sock)
            await channel.send({"ready": ["127.0.0.1:0"]})
            channel.close()
            await until_idle(engine)
            assert engine.handed_over == []

    asyncio.run(run())
