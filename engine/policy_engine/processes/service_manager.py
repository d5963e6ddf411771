"""What systemd, or whoever else set `NOTIFY_SOCKET`, is told of this process (sd_notify(3)); nothing without it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, MutableMapping

NOTIFY_SOCKET = "NOTIFY_SOCKET"
_STARTED_PROCESS = "SYSTEMD_EXEC_PID"

logger = logging.getLogger("policy_engine.supervisor")


class ServiceManager:
    """The service manager of this process, at the Unix socket `address`; empty for none.

    `started` says whether it is this very process that systemd started, with or without a way to be told.
    """

    def __init__(self, address: str = "", *, started: bool = False) -> None:
        self.address = address
        self.started = started

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """Return that of `environment`, out of which the address is taken: processes started later are not it."""
        started = environment.get(_STARTED_PROCESS) == str(os.getpid())
        return cls(environment.pop(NOTIFY_SOCKET, ""), started=started)

    def tell(self, *assignments: str) -> None:
        """Tell what has changed, such as `READY=1`; a manager that cannot be told holds nothing up."""
        if not self.address:
            return
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(assignments).encode(), address)
        except OSError as error:
            logger.warning("the service manager at %s was not told %s: %s", self.address, assignments[0], error)

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Tell that what is configured is read again, and that this is over (`Type=notify-reload`)."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self.tell("READY=1")
