"""CPU time and memory of a program with all its child processes, from /proc; apart from who starts the programs."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")
# Fields of /proc/<pid>/stat after the command's name (proc(5)): parent, user and system time in ticks, resident pages.
_PARENT, _USER, _SYSTEM, _RESIDENT = 1, 11, 12, 21


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds used so far (user and system), and bytes that are in memory now."""

    cpu_s: float
    rss_bytes: int


def usage(pid: int) -> Usage:
    """Return the usage of `pid` and everything below it; of a process that ended meanwhile, nothing."""
    own = [_stat(member) for member in family(pid)]
    ticks = sum(int(fields[_USER]) + int(fields[_SYSTEM]) for fields in own if fields)
    pages = sum(int(fields[_RESIDENT]) for fields in own if fields)
    return Usage(ticks / _TICKS_PER_S, pages * _PAGE_BYTES)


def memory(pid: int) -> tuple[int, int]:
    """Return the bytes that `pid` and everything below it have as PSS, and as if nobody else used the same files.

    PSS (proc_pid_smaps(5)) splits each page among the processes that have it. Programs that happen to run share the
    interpreter and C libraries with what is measured; the second number has each page of them once and whole.
    """
    rollups = [_rollup(member) for member in family(pid)]
    own = sum(one["Pss_Anon"] + one.get("Pss_Shmem", 0) for one in rollups)
    files: dict[str, int] = {}
    for member in family(pid):
        for name, resident in _files(member):
            files[name] = max(files.get(name, 0), resident)
    return sum(one["Pss"] for one in rollups), own + sum(files.values())


def _rollup(pid: int) -> dict[str, int]:
    _, *lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    return {name: int(value.split()[0]) << 10 for name, _, value in (line.partition(":") for line in lines)}


def _files(pid: int) -> Iterator[tuple[str, int]]:
    """Yield each mapping of a file, and the bytes of it that are in memory and still the file's."""
    name, resident = "", 0
    for line in (_PROC / str(pid) / "smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "Rss":
            resident = int(value.split()[0]) << 10
        elif key == "Anonymous" and name.startswith("/"):
            yield name, resident - (int(value.split()[0]) << 10)
        elif "-" in key:
            _range, _mode, offset, _device, _inode, *path = line.split(maxsplit=5)
            name = f"{path[0]} {offset}" if path else ""


def family(pid: int) -> list[int]:
    """Return `pid` and its descendants, oldest first."""
    children = _children()
    found = [pid]
    for member in found:
        found += children.get(member, ())
    return found


def _children() -> Mapping[int, list[int]]:
    children: defaultdict[int, list[int]] = defaultdict(list)
    for pid in _pids():
        if fields := _stat(pid):
            children[int(fields[_PARENT])].append(pid)
    return children


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())


def _stat(pid: int) -> list[str]:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()  # the name may hold spaces and parentheses
