"""h2spec against the native transport."""

from __future__ import annotations

import asyncio
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from policy_engine.kernel.stream import Peer, Replies
from policy_engine.transport.health import EXT_PROC_SERVICE
from policy_engine.transport.native.server import NativeServer
from policy_engine.transport.options import ServerOptions
from tools.conformance.downloads import GoModule, go_program
from tools.conformance.suite import Case, SuiteError

_MODULE = GoModule(
    "github.com/summerwind/h2spec", "v2.2.1+incompatible", "h1:Ex8kpG4LjIeudEtfbM892Os2PawIZBsEvukHJcvZHho="
)
VERSION = _MODULE.version
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
    """Build h2spec, start a server, run all of it, and yield its cases."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        asyncio.run(_against_a_server(go_program(_MODULE, "cmd/h2spec", Path(directory)), report))
        if not report.exists():
            raise SuiteError("h2spec made no report")
        yield from _cases(report)


async def _against_a_server(binary: Path, report: Path) -> None:
    def handler(peer: Peer) -> _Echo:
        return _Echo()

    server = NativeServer(handler, ServerOptions(bind=("127.0.0.1:0",)))
    await server.start()
    try:
        host, _, port = server.address.rpartition(":")
        command = [str(binary), "-h", host, "-p", port, "-P", f"/{EXT_PROC_SERVICE}/Process", "-o", _WAIT_FOR_A_CASE]
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
