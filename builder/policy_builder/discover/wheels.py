"""Wheels of pinned requirements, fetched by hash into a cache and unpacked as an installer would.

A separate module because it is the only place of the builder that brings code onto the machine. Nothing fetched is
ever run or imported; wheels only, since building a source distribution would run its code.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from policy_builder.discover.distributions import Distribution, read_distribution
from policy_builder.discover.made_once import made_once
from policy_builder.discover.platform import Platform
from policy_builder.discover.requirements_file import Pin
from policy_builder.discover.wheel_archive import unpack_wheel
from policy_builder.recipe import PYTHON, wheel_belongs_in_image

TIMEOUT = 1800.0
"""Seconds for one run of pip, which has its own retries."""

_UNREACHABLE = re.compile(r"NewConnectionError|NameResolutionError|Connection to .* timed out|Max retries|ProxyError")
_NOT_THERE = re.compile(r"No matching distribution found")
_WRONG_HASH = re.compile(r"DO NOT MATCH THE HASHES")
_VERSION = tuple(int(part) for part in PYTHON.split("."))


class FetchError(Exception):
    """The registry could not be asked; `output` is what pip said."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class WheelStore:
    """Wheels for one platform in the directory `cache`, with further `directories` to look in."""

    def __init__(self, cache: Path, platform: Platform, directories: Sequence[Path] = ()) -> None:
        self._wheels = cache / "wheels"
        self._unpacked = cache / "judged"  # not where earlier builders unpacked what they had not judged
        self._platform = platform
        self._directories = tuple(directories)
        platforms = platform.wheel_platforms()
        tags = [
            *cpython_tags(_VERSION, platforms=platforms),
            *compatible_tags(_VERSION, f"cp{PYTHON.replace('.', '')}", platforms),
        ]
        self._rank: Mapping[Tag, int] = {tag: index for index, tag in enumerate(tags)}

    def fetch(self, pins: Iterable[Pin]) -> tuple[dict[str, Path], dict[str, str]]:
        """Return the wheel of each pin, by canonical name, downloading what is at hand in no directory.

        The second mapping gives the reason for pins that no registry could serve: no such version, a wrong hash, no
        wheel for the platform. Raises FetchError when the registry itself could not be asked.
        """
        found: dict[str, Path] = {}
        failed: dict[str, str] = {}
        missing: list[Pin] = []
        for pin in pins:
            wheel = self._stored(pin)
            if wheel is not None:
                found[pin.name] = wheel
            elif not pin.hashes:
                failed[pin.name] = f"{pin} is pinned without a hash, so what is downloaded could not be checked"
            else:
                missing.append(pin)
        if missing and self._download(missing) is not None:
            # pip stops at the first that fails; one by one, each that does is known by name.
            failed |= {pin.name: reason for pin in missing if (reason := self._download([pin])) is not None}
        for pin in missing:
            wheel = self._stored(pin)
            if wheel is not None:
                found[pin.name] = wheel
            else:
                failed.setdefault(pin.name, f"there is no wheel of {pin} for {self._platform}")
        return found, failed

    def local(self, name: str, version: str) -> Path | None:
        """Return the wheel of a distribution in the further directories; it needs no hash: the operator keeps them."""
        candidates = [wheel for one in self._directories for wheel in self._matching(one, name, version)]
        return self._best(candidates)

    def installed(self, wheel: Path) -> Distribution:
        """Return the distribution that `wheel` installs. Raises WheelError and DistributionError."""
        return replace(read_distribution(self.unpack(wheel)), wheel=_sha256(wheel))

    def unpack(self, wheel: Path) -> dict[str, Path]:
        """Return the files that `wheel` installs, by their names below site-packages.

        Raises WheelError for a file that is no wheel, or one that is not unpacked.
        """
        place = self._unpacked / f"{wheel.stem}-{_sha256(wheel)[:16]}"
        target = made_once(place, lambda directory: unpack_wheel(wheel, directory))
        files = {path.relative_to(target).as_posix(): path for path in sorted(target.rglob("*")) if path.is_file()}
        return {name: path for name, path in files.items() if wheel_belongs_in_image(name)}

    def _stored(self, pin: Pin) -> Path | None:
        """Return the best wheel at hand for `pin`; where the pin has hashes it must have one of them."""
        places = (self._wheels, *self._directories)
        wheels = [wheel for place in places for wheel in self._matching(place, pin.name, pin.version)]
        return self._best([wheel for wheel in wheels if not pin.hashes or f"sha256:{_sha256(wheel)}" in pin.hashes])

    def _matching(self, directory: Path, name: str, version: str) -> list[Path]:
        found = []
        for wheel in directory.glob("*.whl"):
            if canonicalize_name(wheel.name.partition("-")[0]) == name and self._rank_of(wheel, version) is not None:
                found.append(wheel)
        return found

    def _best(self, wheels: Iterable[Path]) -> Path | None:
        return min(wheels, key=lambda wheel: (self._rank_of(wheel, None) or 0, wheel.name), default=None)

    def _rank_of(self, wheel: Path, version: str | None) -> int | None:
        """Return how well the wheel fits (0 is best), None when it does not or is of another version."""
        try:
            _, found, _, tags = parse_wheel_filename(wheel.name)
        except InvalidWheelFilename:
            return None
        if version is not None and str(found) != version and wheel.name.split("-")[1] != version:
            return None
        return min((self._rank[tag] for tag in tags if tag in self._rank), default=None)

    def _download(self, pins: Sequence[Pin]) -> str | None:
        """Download the wheels of `pins`; return why one of them cannot be had. Raises FetchError."""
        self._wheels.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir", "--retries=5"]
        command += ["--implementation=cp", f"--python-version={PYTHON}", f"--abi=cp{PYTHON.replace('.', '')}"]
        command += ["--abi=abi3", "--abi=none", *(f"--platform={tag}" for tag in self._platform.wheel_platforms())]
        with tempfile.TemporaryDirectory(dir=self._wheels) as scratch:
            listing = Path(scratch, "requirements.txt")
            listing.write_text("".join(f"{pin.as_line()}\n" for pin in pins), encoding="utf-8")
            try:
                done = subprocess.run(
                    [*command, "--dest", scratch, "--requirement", str(listing)],
                    text=True,
                    capture_output=True,
                    check=False,
                    timeout=TIMEOUT,
                )
            except subprocess.TimeoutExpired:
                raise FetchError(f"pip did not finish within {TIMEOUT:.0f} s") from None
            if done.returncode == 0:
                for wheel in Path(scratch).glob("*.whl"):
                    wheel.replace(self._wheels / wheel.name)
                return None
        output = (done.stdout + done.stderr).strip()
        names = ", ".join(str(pin) for pin in pins)
        if _UNREACHABLE.search(output) or not (_NOT_THERE.search(output) or _WRONG_HASH.search(output)):
            raise FetchError(f"pip could not download {names}", output)
        if _WRONG_HASH.search(output):
            return f"what the registry serves as {names} has none of the pinned hashes"
        return f"no registry has a wheel of {names} for {self._platform} and Python {PYTHON}"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
