"""The machine an image is made for, which decides on wheels; it need not be the one that builds."""

from __future__ import annotations

from dataclasses import dataclass

from policy_builder.recipe import GLIBC_MINOR, MACHINES, PYTHON

_LEGACY = {"x86_64": {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}, "aarch64": {17: "manylinux2014"}}


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform as OCI names it, such as linux/amd64; raises ValueError for one that no image is made for."""

    architecture: str = "amd64"
    os: str = "linux"

    def __post_init__(self) -> None:
        if self.os != "linux" or self.architecture not in MACHINES:
            known = ", ".join(f"linux/{name}" for name in MACHINES)
            raise ValueError(f"no image is made for {self} (available: {known})")

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Return the platform that `linux/amd64` names; raises ValueError."""
        os, _, architecture = text.partition("/")
        return cls(architecture, os)

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"

    @property
    def machine(self) -> str:
        """As `uname -m` prints it."""
        return MACHINES[self.architecture]

    def wheel_platforms(self) -> tuple[str, ...]:
        """Return the platform tags that the interpreter accepts, best first (PEP 600)."""
        lowest = 5 if self.machine == "x86_64" else 17
        tags = []
        for minor in range(GLIBC_MINOR, lowest - 1, -1):
            tags.append(f"manylinux_2_{minor}_{self.machine}")
            if minor in _LEGACY[self.machine]:
                tags.append(f"{_LEGACY[self.machine][minor]}_{self.machine}")
        return (*tags, f"linux_{self.machine}")

    def marker_environment(self) -> dict[str, str]:
        """Return the values that environment markers (PEP 508) have in the image."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{PYTHON}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{PYTHON}.0",
            "python_version": PYTHON,
            "sys_platform": "linux",
        }
