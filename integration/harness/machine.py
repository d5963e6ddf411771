"""What a number is worth nothing without: the date, the code, the machine and how busy it was."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from integration.harness.envoy_binary import envoy_version
from policy_engine.settings.usable_cores import usable_cores


def facts() -> Mapping[str, str]:
    """Return what heads a report, by name."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "CPU": f"{_cpu()}, {usable_cores()} cores",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "?"),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Envoy": f"{envoy_version()}, one worker thread",
    }


def busy() -> str:
    """Return the load average: with nothing else on the machine it is below 1 before a run."""
    return ", ".join(f"{value:.2f}" for value in os.getloadavg())


def _commit() -> str:
    # Under `bazel run` the working directory is not the checkout.
    checkout = os.environ.get("BUILD_WORKSPACE_DIRECTORY", ".")
    git = shutil.which("git")
    if git is None:
        return "unknown (no git)"
    described = subprocess.run(
        [git, "-C", checkout, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown (no checkout)"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown CPU"
