"""What the operating system knows of the engine's processes, read where Linux has it: hung ones are seen too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from policy_engine.telemetry.samples import Samples

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_USER, _SYSTEM = 11, 12
"""Fields of `/proc/PID/stat` behind the name of the program (proc_pid_stat(5) counts from there with 3)."""


def process_samples(processes: Mapping[str, object], proc: Path = _PROC) -> Samples:
    """Return CPU time, memory and open files of processes by their names; those that have ended are left out."""
    samples: Samples = {}
    for name, pid in processes.items():
        try:
            of_process = _read(proc / str(pid))
        except (OSError, ValueError, IndexError):
            continue
        for metric, value in of_process.items():
            samples.setdefault(metric, []).append(({"process": name}, value))
    return samples


def _read(directory: Path) -> dict[str, float]:
    # The name of the program may hold spaces and parentheses.
    fields = (directory / "stat").read_text().rpartition(")")[2].split()
    pages = int((directory / "statm").read_text().split()[1])
    return {
        "policy_engine_process_cpu_seconds": (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS,
        "policy_engine_process_resident_memory_bytes": pages * _PAGE,
        "policy_engine_process_open_fds": sum(1 for _ in (directory / "fd").iterdir()),
    }
