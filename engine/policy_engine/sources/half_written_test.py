"""A writer that pauses inside a chain file, whatever its way of writing: what stands there meanwhile is never in effect.

A process of its own writes, as it would anywhere. It pauses at every boundary between two entries, where half a file is
valid YAML and a chain without its last policies, and at random places.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from policy_engine.documents.secret_references import SecretSource
from policy_engine.sources.chain_file import read_chain_files
from policy_engine.sources.chain_reader import ChainReader
from policy_engine.sources.file_source import FileSource
from policy_engine.sources.source import LoadReport
from policy_engine.worker.chains.spec import ChainsSpec
from policy_engine.worker.policies.loader import load_policy_tree
from policy_engine.worker.policies.registry import Registry
from policy_engine.worker.policies.trial import Trial
from testsupport.policy_directories import write_policy

SETTLE = 2.0
ENTRIES = 4
REWRITES = 2

WRITER = """
import json, os, sys, threading, time

def rewrite(path, parts):
    with open(path, "w") as file:
        for part, pause in parts:
            file.write(part); file.flush(); time.sleep(pause)

def append(path, parts):
    open(path, "w").close()
    for part, pause in parts:
        with open(path, "a") as file:
            file.write(part)
        time.sleep(pause)

def recreate(path, parts):
    os.unlink(path)
    rewrite(path, parts)

def recreate_later(path, parts):
    os.unlink(path)
    time.sleep(0.2)
    rewrite(path, parts)

def keep_a_backup(path, parts):
    os.rename(path, path + "~")
    rewrite(path, parts)

def cut_late(path, parts):
    with open(path, "r+") as file:
        for part, pause in parts:
            file.write(part); file.flush(); file.truncate(); time.sleep(pause)

def work(way, path, rewrites):
    for parts in rewrites:
        globals()[way](path, parts)

threads = [threading.Thread(target=work, args=job) for job in json.load(sys.stdin)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
WAYS = ("rewrite", "append", "recreate", "recreate_later", "keep_a_backup", "cut_late")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    root = tmp_path_factory.mktemp("policies")
    write_policy(root)
    registry, diagnostics = load_policy_tree(root)
    assert registry is not None, diagnostics
    return registry


def chain_parts(key: str, revision: int) -> list[str]:
    """Return a file in pieces; each beginning of it up to a piece's end is a valid file with a shorter chain."""
    head = f"version: v1\nroutes:\n- route_key: {key}\n  policies:\n"
    return [head] + [f"  - {{name: tested, version: v1, parameters: {{count: {revision}}}}}\n" for _ in range(ENTRIES)]


def pieces(key: str, revision: int, chance: random.Random) -> list[tuple[str, float]]:
    """Return the file cut at every entry and once inside each piece, with the pause after each cut.

    Half of them begin with a file that is valid at once.
    """
    head, first, *others = chain_parts(key, revision)
    cut = [(head + first, 0.2)] if chance.random() < 0.5 else []
    for part in others if cut else (head, first, *others):
        at = chance.randrange(len(part))
        cut += [(part[:at], chance.uniform(0, 0.2)), (part[at:], chance.uniform(0.06, 0.2))]
    return cut


class Engine:
    """Remembers every chain that was in effect."""

    def __init__(self, path: Path, registry: Registry, *, settle: float = SETTLE, end_marker: bool = False) -> None:
        self.active: list[ChainsSpec] = []
        self.reports: list[LoadReport] = []
        reader = ChainReader(registry, secrets=lambda: SecretSource({}))
        self.source = FileSource(path, reader, self.apply, self.reports.append, settle, end_marker)

    async def apply(self, chains: ChainsSpec) -> None:
        self.active.append(chains)

    async def until(self, revision: int) -> None:
        async with asyncio.timeout(60):
            while not self.active or self.active[-1].routes[-1].policies[0].parameters["count"] != revision:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


def test_no_way_of_writing_puts_half_a_chain_into_effect(tmp_path: Path, registry: Registry) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    jobs, engines = [], []
    for way in WAYS:
        for whole_directory in (False, True):
            directory = tmp_path / f"{way}{whole_directory}"
            directory.mkdir()
            file = directory / "b.yaml"
            file.write_text("".join(chain_parts("r", 1)))
            if whole_directory:
                (directory / "a.yaml").write_text("".join(chain_parts("q", 1)))
            engines.append(Engine(directory if whole_directory else file, registry))
            rewrites = [pieces("r", revision, chance) for revision in range(2, 2 + REWRITES)]
            jobs.append((way, str(file), rewrites))

    async def test() -> None:
        tasks = [asyncio.create_task(engine.source.run()) for engine in engines]
        for engine in engines:
            await engine.until(1)
        writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, stdin=subprocess.PIPE)
        await writer.communicate(json.dumps(jobs).encode())
        assert writer.returncode == 0
        for engine in engines:
            await engine.until(1 + REWRITES)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(test())
    for (way, path, _), engine in zip(jobs, engines, strict=True):
        routes = 2 if engine.source.path.is_dir() else 1
        lengths = [[len(route.policies) for route in chains.routes] for chains in engine.active]
        assert lengths == [[ENTRIES] * routes] * len(lengths), (way, path, seed)


@pytest.mark.parametrize("ask", ["start", "reload"])
def test_a_file_that_is_half_written_when_the_engine_starts_or_is_told_to_reload(
    tmp_path: Path, registry: Registry, ask: str
) -> None:
    file = tmp_path / "chains.yaml"
    parts = pieces("r", 1, random.Random(7))
    engine = Engine(file, registry)

    async def test() -> None:
        file.write_text(parts[0][0])
        writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, stdin=subprocess.PIPE)
        assert writer.stdin is not None
        writer.stdin.write(json.dumps([("append", str(file), [parts])]).encode())
        writer.stdin.close()
        while file.read_text().count("tested") != 2:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)
        if ask == "reload":
            await engine.source.load(force=True)
        else:
            task = asyncio.create_task(engine.source.run())
            await engine.until(1)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await writer.wait()

    asyncio.run(test())
    assert [len(chains.routes[0].policies) for chains in engine.active] == [ENTRIES]


def test_what_changes_while_it_is_read_is_not_used(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "chains.yaml"
    whole = chain_parts("r", 1)
    file.write_text("".join(whole))
    engine = Engine(file, registry, settle=0.3)
    read = engine.source.reader.read_documents
    times = []

    def write_half_before_reading(*given: object) -> object:
        times.append(0)
        if len(times) == 1:
            file.write_text("".join(whole[:2]))
            return read(*given)  # type: ignore[arg-type]
        if len(times) == 2:
            file.write_text("".join(whole))
        return read(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.source.reader, "read_documents", write_half_before_reading)
    asyncio.run(engine.source.load())
    assert len(times) == 3
    assert [len(chains.routes[0].policies) for chains in engine.active] == [ENTRIES]


def test_what_is_written_while_policies_are_tried_out_is_for_the_next_load(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "chains.yaml"
    file.write_text("".join(chain_parts("r", 1)))
    engine = Engine(file, registry, settle=0.3)
    tried = []

    def written_meanwhile(trials: Sequence[Trial], seconds: float) -> list[None]:
        tried.append(len(trials))
        file.write_text("".join(chain_parts("r", 1 + len(tried))))
        return [None] * len(trials)

    monkeypatch.setattr(engine.source.reader, "_try", written_meanwhile)
    asyncio.run(engine.source.load())
    assert (len(tried), len(engine.active)) == (1, 1), "files that change all the time would never be used"
    asyncio.run(engine.source.load())
    assert (len(tried), len(engine.active)) == (2, 2)


def test_with_an_end_marker_every_shorter_file_is_refused(tmp_path: Path, registry: Registry) -> None:
    file = tmp_path / "chains.yaml"
    whole = "".join(chain_parts("r", 1)) + "...\n"
    file.write_text(whole)
    assert read_chain_files((file,), end_marker=True).diagnostics == ()
    for length in range(len(whole) - len("...\n") + 3):
        file.write_text(whole[:length])
        (found,) = read_chain_files((file,), end_marker=True).diagnostics
        assert "is not complete: its last line is not '...'" in found.reason, length


def test_with_a_checksum_beside_it_every_other_content_is_refused(tmp_path: Path, registry: Registry) -> None:
    file, checksum = tmp_path / "chains.yaml", tmp_path / "chains.yaml.sha256"
    whole = "".join(chain_parts("r", 1))
    digest = hashlib.sha256(whole.encode()).hexdigest()
    for text in (digest, f"{digest.upper()}\n", f"{digest}  chains.yaml\n", f"{digest} *chains.yaml\n"):
        checksum.write_text(text)
        for place in (file, tmp_path):
            file.write_text(whole)
            assert read_chain_files((place,)).diagnostics == ()
            for length in range(0, len(whole), 7):
                file.write_text(whole[:length])
                (found,) = read_chain_files((place,)).diagnostics
                assert "does not match its checksum" in found.reason
    for text in ("", "half", digest[:-1], f"{digest}0"):
        checksum.write_text(text)
        assert "is not one: 64 hexadecimal" in read_chain_files((file,)).diagnostics[0].reason


def test_a_checksum_that_comes_later_is_a_change(tmp_path: Path, registry: Registry) -> None:
    file = tmp_path / "chains.yaml"
    whole = "".join(chain_parts("r", 1))
    file.write_text(whole)
    file.with_name("chains.yaml.sha256").write_text("0" * 64)
    engine = Engine(file, registry, settle=0.1)

    async def test() -> None:
        task = asyncio.create_task(engine.source.run())
        while not engine.reports:  # noqa: ASYNC110 - of a thread's looking
            await asyncio.sleep(0.01)
        assert engine.active == []
        file.with_name("chains.yaml.sha256").write_text(hashlib.sha256(whole.encode()).hexdigest())
        await engine.until(1)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(test())
