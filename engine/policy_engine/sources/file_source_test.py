"""File mode end to end: files on disk to applied chains, with the last good ones kept through every mistake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from policy_engine.documents.secret_references import SecretSource
from policy_engine.sources.chain_reader import ChainReader
from policy_engine.sources.file_source import FileSource
from policy_engine.sources.source import LoadReport
from policy_engine.worker.chains.spec import ChainsSpec
from policy_engine.worker.policies.loader import load_policy_tree
from policy_engine.worker.policies.registry import Registry
from testsupport.policy_directories import write_policy

PATIENCE = 10.0


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    root = tmp_path_factory.mktemp("policies")
    write_policy(root)
    registry, diagnostics = load_policy_tree(root)
    assert registry is not None, diagnostics
    return registry


class Engine:
    """Takes chains as the supervisor does, and remembers."""

    def __init__(self, path: Path, registry: Registry, settle: float) -> None:
        self.applied: list[ChainsSpec] = []
        self.reports: asyncio.Queue[LoadReport] = asyncio.Queue()
        self.refuse: Exception | None = None
        self.source = FileSource(
            path, ChainReader(registry, secrets=lambda: SecretSource({})), self.apply, self.reports.put_nowait, settle
        )

    async def apply(self, chains: ChainsSpec) -> None:
        await asyncio.sleep(0)
        if self.refuse is not None:
            raise self.refuse
        self.applied.append(chains)

    async def next(self) -> LoadReport:
        return await asyncio.wait_for(self.reports.get(), PATIENCE)

    async def nothing(self) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(self.reports.get(), 0.4)


@asynccontextmanager
async def running(path: Path, registry: Registry, settle: float = 0.1) -> AsyncIterator[Engine]:
    engine = Engine(path, registry, settle)
    task = asyncio.create_task(engine.source.run())
    try:
        yield engine
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def chain(count: object, key: str = "r") -> str:
    return f"""
version: v1
routes:
- route_key: {key}
  policies:
  - {{name: tested, version: v1, parameters: {{count: {count}}}}}
"""


def counts(engine: Engine) -> list[object]:
    return [one.routes[0].policies[0].parameters["count"] for one in engine.applied]


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type] # a coroutine, typed as the awaitable that tests are written as


def test_load_change_break_and_mend(tmp_path: Path, registry: Registry) -> None:
    async def test() -> None:
        file = tmp_path / "chains.yaml"
        file.write_text(chain(1))
        async with running(file, registry) as engine:
            assert (await engine.next()).accepted
            file.write_text(chain(2))
            second = await engine.next()
            assert second.accepted
            assert second.chains is engine.source.active
            file.write_text(chain(0))
            broken = await engine.next()
            assert not broken.accepted
            assert f"{file}:6:53: /routes/0/policies/0/parameters/count" in str(broken.diagnostics[0])
            assert engine.source.active is second.chains
            assert engine.source.last is broken
            file.unlink()
            assert "cannot be read" in str((await engine.next()).diagnostics[0])
            file.write_text(chain(3))
            assert (await engine.next()).accepted
        assert counts(engine) == [1, 2, 3]

    run(test)


def test_touching_or_rewriting_the_same_does_nothing(tmp_path: Path, registry: Registry) -> None:
    async def test() -> None:
        file = tmp_path / "chains.yaml"
        file.write_text(chain(1))
        async with running(file, registry) as engine:
            await engine.next()
            file.touch()
            await engine.nothing()
            file.write_text(chain(1))
            await engine.nothing()
            assert await engine.source.load() is None
            forced = await engine.source.load(force=True)
            assert forced is not None
            assert forced.accepted

    run(test)


def test_a_half_written_file_keeps_the_last_good_chains(tmp_path: Path, registry: Registry) -> None:
    async def test() -> None:
        file = tmp_path / "chains.yaml"
        file.write_text(chain(1))
        async with running(file, registry) as engine:
            await engine.next()
            with file.open("w") as writing:
                writing.write(chain(2)[:40])
                writing.flush()
                assert not (await engine.next()).accepted
                writing.write(chain(2)[40:])
            assert (await engine.next()).accepted
        assert counts(engine) == [1, 2]

    run(test)


def test_a_directory_of_files_is_one_configuration(tmp_path: Path, registry: Registry) -> None:
    async def test() -> None:
        (tmp_path / "a.yaml").write_text(chain(1, "a"))
        (tmp_path / "ignored.txt").write_text("not yaml: [")
        async with running(tmp_path, registry) as engine:
            await engine.next()
            (tmp_path / "b.yml").write_text(chain(2, "b"))
            report = await engine.next()
            assert report.chains is not None
            assert [route.route_key for route in report.chains.routes] == ["a", "b"]
            (tmp_path / "c.yaml").write_text(chain(3, "b"))
            assert "already used in" in str((await engine.next()).diagnostics[0])
            (tmp_path / "c.yaml").unlink()
            assert (await engine.next()).accepted
            for name in ("a.yaml", "b.yml"):
                (tmp_path / name).rename(tmp_path / f".{name}")
            assert "holds no chain file" in str((await engine.next()).diagnostics[0])
            assert engine.source.active is not None

    run(test)


def test_a_config_map_swap_is_one_change(tmp_path: Path, registry: Registry) -> None:
    def publish(revision: int) -> None:
        (tmp_path / f"..{revision}").mkdir()
        (tmp_path / f"..{revision}" / "a.yaml").write_text(chain(revision, "a"))
        (tmp_path / f"..{revision}" / "b.yaml").write_text(chain(revision, "b"))
        (tmp_path / "..data_tmp").symlink_to(f"..{revision}")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    async def test() -> None:
        publish(1)
        for name in ("a.yaml", "b.yaml"):
            (tmp_path / name).symlink_to(f"..data/{name}")
        async with running(tmp_path, registry) as engine:
            await engine.next()
            for revision in range(2, 8):
                publish(revision)
                assert (await engine.next()).accepted
            await engine.nothing()
        for chains in engine.applied:
            assert len({route.policies[0].parameters["count"] for route in chains.routes}) == 1

    run(test)


def test_a_changed_secret_file_is_a_change(tmp_path: Path, registry: Registry) -> None:
    async def test() -> None:
        (tmp_path / "conf").mkdir()
        file, secret = tmp_path / "conf" / "chains.yaml", tmp_path / "secret"
        file.write_text(chain(1).replace("count: 1", f"key: '${{file:{secret}}}'"))
        async with running(file, registry) as engine:
            assert "cannot be read: No such file" in str((await engine.next()).diagnostics[0])
            secret.write_text("first-secret")
            first = await engine.next()
            assert first.accepted
            secret.write_text("other-secret")
            second = await engine.next()
            assert second.accepted
            assert first.content_hash != second.content_hash
            secret.write_text("x")
            refused = await engine.next()
            assert "is too short; allowed" in str(refused.diagnostics[0])
        assert [one.routes[0].policies[0].parameters["key"] for one in engine.applied] == [
            "first-secret",
            "other-secret",
        ]
        assert engine.applied[0].routes[0].content_hash() != engine.applied[1].routes[0].content_hash()

    run(test)


def test_chains_that_cannot_be_applied_are_refused_and_the_next_change_is_tried(
    tmp_path: Path, registry: Registry
) -> None:
    async def test() -> None:
        file = tmp_path / "chains.yaml"
        file.write_text(chain(1))
        async with running(file, registry) as engine:
            first = await engine.next()
            engine.refuse = RuntimeError("a worker refused it")
            file.write_text(chain(2))
            report = await engine.next()
            assert not report.accepted
            assert "could not be put into effect: RuntimeError: a worker refused it" in str(report.diagnostics[0])
            assert engine.source.active is first.chains
            engine.refuse = None
            file.write_text(chain(3))
            assert (await engine.next()).accepted
        assert counts(engine) == [1, 3]

    run(test)


def test_a_burst_of_changes_ends_in_the_last(tmp_path: Path, registry: Registry) -> None:
    async def test() -> None:
        file = tmp_path / "chains.yaml"
        file.write_text(chain(1))
        async with running(file, registry) as engine:
            await engine.next()
            for count in range(2, 60):
                new = tmp_path / ".new"
                new.write_text(chain(count))
                new.replace(file)
                await asyncio.sleep(0.005)
            while (await engine.next()).chains != engine.source.active or counts(engine)[-1] != 59:
                pass
            await engine.nothing()
        assert len(engine.applied) < 30

    run(test)


def test_a_fault_of_our_own_is_reported_and_does_not_end_the_watching(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        file = tmp_path / "chains.yaml"
        file.write_text(chain(1))
        async with running(file, registry) as engine:
            assert (await engine.next()).accepted
            with monkeypatch.context() as patched:
                patched.setattr(engine.source.reader, "read_documents", lambda *_: dict[str, str]()["s3cr3t"])
                file.write_text(chain(2))
                report = await engine.next()
            assert "could not be read, for a fault in the engine: KeyError (" in str(report.diagnostics[0])
            assert "s3cr3t" not in str(report.diagnostics[0])
            file.write_text(chain(3))
            assert (await engine.next()).accepted

    run(test)
