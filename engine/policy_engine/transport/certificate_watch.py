"""Sees to it that renewed certificates are used: looks at the files of TLS and has them read again when they changed.

A separate module because it is the same for both transports. The files are looked at, not watched: a renewal is a
symbolic link turned, a rename or a rewrite, and seconds do not matter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from policy_engine.transport.options import TlsOptions

logger = logging.getLogger("policy_engine.transport")

LOOK_SECONDS = 2.0


class CertificateWatch:
    """Calls `reload` when the files have changed and then stayed as they are for one look, so that pairs are whole.

    A file that cannot be used is named in the log once, what was read before goes on being used, and the next change is
    tried again.
    """

    def __init__(self, options: TlsOptions, reload: Callable[[], None], interval: float = LOOK_SECONDS) -> None:
        self._options = options
        self._reload = reload
        self._interval = interval
        self._used = self._seen = self._look()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look at the files from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            self.look()

    def look(self) -> None:
        """Look once."""
        now = self._look()
        settled, self._seen = now == self._seen, now
        if now == self._used or not settled:
            return
        self._used = now
        try:
            self._reload()
        except ValueError as error:
            logger.error("renewed certificate not used: %s", error, extra={"event": "tls_not_reloaded"})
        else:
            logger.info("certificate %s read again", self._options.certificate_file, extra={"event": "tls_reloaded"})

    def _look(self) -> tuple[Any, ...]:
        return tuple(map(_state, self._options.files))


def _state(path: Any) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
