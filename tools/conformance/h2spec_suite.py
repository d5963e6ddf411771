"""h2spec against the native transport: `go install github.com/summerwind/h2spec/cmd/h2spec@latest`."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from suite import Case, SuiteError

from policy_engine.kernel.stream import Peer, Replies
from policy_engine.transport.health import EXT_PROC_SERVICE
from policy_engine.transport.native.server import NativeServer
from policy_engine.transport.options import ServerOptions

EXPECTED = "h2spec.toml"
_SECONDS = 300
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
"""Bytes of the protocol that h2spec writes into its report as they are."""
_WAIT_FOR_A_CASE = "1"


class _Echo:
    """A handler that sends every message back."""

    def receive(self, message: bytes) -> Replies:
        return message

    def close(self) -> None:
        return None


def run() -> Iterator[Case]:
    """Start a server, run all of h2spec, and yield its cases."""
    binary = os.environ.get("H2SPEC") or shutil.which("h2spec")
    if binary is None:
        raise SuiteError("h2spec is not on PATH: go install github.com/summerwind/h2spec/cmd/h2spec@latest")
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        asyncio.run(_against_a_server(binary, report))
        if not report.exists():
            raise SuiteError("h2spec made no report")
        yield from _cases(report)


async def _against_a_server(binary: str, report: Path) -> None:
    def handler(peer: Peer) -> _Echo:
        return _Echo()

    server = NativeServer(handler, ServerOptions(bind=("127.0.0.1:0",)))
    await server.start()
    try:
        host, _, port = server.address.rpartition(":")
        command = [binary, "-h", host, "-p", port, "-P", f"/{EXT_PROC_SERVICE}/Process", "-o", _WAIT_FOR_A_CASE]
        process = await asyncio.create_subprocess_exec(
            *command, "--junit-report", str(report), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        async with asyncio.timeout(_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        raise SuiteError(f"h2spec did not end within {_SECONDS} s") from None
    finally:
        await server.close()


def _cases(report: Path) -> Iterator[Case]:
    # Written by the tool that was just run, on this machine.
    text = _NOT_XML.sub("?", report.read_text("utf-8", "replace"))
    for suite in ElementTree.fromstring(text).iter("testsuite"):  # noqa: S314
        for number, case in enumerate(suite.iter("testcase"), 1):
            problem = next((one for one in case if one.tag in ("failure", "error")), None)
            detail = " ".join((problem.text or "").split())[:200] if problem is not None else ""
            yield Case(f"{case.get('package')}/{number}", problem is None, f"{case.get('classname')}: {detail}")
