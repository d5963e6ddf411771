"""The way to debug a policy that CONTRIBUTING.md describes: `breakpoint()` in a hook, at the terminal of `run`."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from policy_engine.scaffold import scaffold
from testsupport.envoy_messages import parse, request_headers

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
CHAINS = """
version: v1
routes:
  - {route_key: r, policies: [{name: add-tenant, version: v1, parameters: {value: acme}}]}
"""
PATIENCE_S = 60.0
LONGER_THAN_A_TIMEOUT_S = 2.0


class _Terminal:
    """The far end of a terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._shown = ""

    def wait_for(self, text: str) -> None:
        """Return once `text` was shown after what was waited for before."""
        end = time.monotonic() + PATIENCE_S
        while text not in self._shown:
            assert time.monotonic() < end, f"{text!r} was not shown, but {self._shown!r}"
            if select.select([self._descriptor], [], [], 0.1)[0]:
                self._shown += os.read(self._descriptor, 4096).decode()
        self._shown = self._shown.partition(text)[2]

    def type(self, line: str) -> None:
        os.write(self._descriptor, f"{line}\n".encode())


@contextmanager
def _engine(directory: Path) -> Iterator[_Terminal]:
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "policy_engine",
        "run",
        "--chains",
        "chains.yaml",
        "--policies-directory",
        "policies",
    ]
    command += ["--workers", "1", "--policy-timeout", "1h", "--worker-timeout", "1h", "--log-format", "text"]
    command += [f"--listen=unix:{directory}/e.sock", "--admin-listen=off", "--health-listen=off", "--drain-timeout=1s"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    process = subprocess.Popen(
        command, cwd=directory, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        yield _Terminal(ours)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            os.close(ours)


def test_a_breakpoint_in_a_hook_stops_at_the_terminal_for_as_long_as_it_takes() -> None:
    with tempfile.TemporaryDirectory(prefix="bp-", dir="/tmp") as name:
        directory = Path(name)
        scaffold("add-tenant", directory / "policies")
        code = directory / "policies/add-tenant/v1_0_0/policy.py"
        code.write_text(code.read_text().replace('"""Set the header."""', "breakpoint()"))
        (directory / "chains.yaml").write_text(CHAINS)
        with _engine(directory) as terminal, grpc.insecure_channel(f"unix:{directory}/e.sock") as channel:
            terminal.wait_for("supervisor: ready")
            call: Any = channel.stream_stream(PROCESS, None, None)(iter([request_headers("r")]), timeout=PATIENCE_S)
            terminal.wait_for("(Pdb)")
            time.sleep(LONGER_THAN_A_TIMEOUT_S)
            terminal.type("print('at', request.path, 'of', type(self).__name__)")
            terminal.wait_for("at / of AddTenant")
            terminal.type("continue")
            reply = parse(next(call))
            (change,) = reply.request_headers.response.header_mutation.set_headers
            assert (change.header.key, change.header.raw_value) == ("x-add-tenant", b"acme")
