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

_SHORT = 12
"""Digits of a commit that are shown."""


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
    checkout = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", ".")).resolve()
    git = shutil.which("git")
    reason = "git is not installed"
    if git is not None:
        # Inside the Debian system of ./bazelw the checkout is somebody else's, which git refuses unless it is told so.
        command = [git, "-c", f"safe.directory={checkout}", "-C", str(checkout), "describe", "--always", "--dirty"]
        described = subprocess.run(command, capture_output=True, text=True, check=False)
        if described.stdout.strip():
            return described.stdout.strip()
        reason = described.stderr.strip().partition("\n")[0]
    return _head(checkout / ".git") or f"unknown ({reason})"


def _head(place: Path) -> str | None:
    """Return the commit that the repository at `place` is at, from its files; None where these do not tell."""
    try:
        if place.is_file():  # of a worktree, which names the directory (gitrepository-layout)
            place = place.parent / place.read_text().removeprefix("gitdir:").strip()
        head = (place / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head[:_SHORT]
        name = head.removeprefix("ref:").strip()
        shared = place / (place / "commondir").read_text().strip() if (place / "commondir").exists() else place
        if (shared / name).exists():
            return (shared / name).read_text()[:_SHORT]
        packed = (line.partition(" ") for line in (shared / "packed-refs").read_text().splitlines())
        return next((commit[:_SHORT] for commit, _, one in packed if one == name), None)
    except OSError:
        return None


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown CPU"
