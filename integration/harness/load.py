"""Sends requests steadily while something else happens, bounded in count and time, and keeps every outcome.

For the promises of the form "without a failed request": configuration change, restart, drain.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

from integration.harness.client import Connection, Reply

MAX_REQUESTS = 20_000
MAX_SECONDS = 120.0
_PAUSE_S = 0.002


class Load:
    """`workers` keep-alive connections, each sending `request` again and again until the context ends.

    `outcomes` counts what `classify` makes of each reply; a broken connection counts as the error's name, so a failed
    request cannot pass unseen.
    """

    def __init__(
        self,
        port: int,
        request: Callable[[Connection], Reply],
        classify: Callable[[Reply], str],
        *,
        workers: int = 4,
    ) -> None:
        self.outcomes: Counter[str] = Counter()
        self._port = port
        self._request = request
        self._classify = classify
        self._stop = threading.Event()
        self._counted = threading.Condition()
        self._deadline = time.monotonic() + MAX_SECONDS
        self._threads = [threading.Thread(target=self._work, name=f"load-{number}") for number in range(workers)]

    def wait_for(self, outcome: str, count: int = 1, *, timeout_s: float = 30.0) -> None:
        """Return once `outcome` was seen `count` times from now on; raises AssertionError when it is not."""
        with self._counted:
            wanted = self.outcomes[outcome] + count
            if not self._counted.wait_for(lambda: self.outcomes[outcome] >= wanted, timeout_s):
                raise AssertionError(f"no {outcome!r} within {timeout_s:g} s: {dict(self.outcomes)}")

    def _work(self) -> None:
        connection: Connection | None = None
        while not self._stop.is_set() and time.monotonic() < self._deadline and self.outcomes.total() < MAX_REQUESTS:
            try:
                connection = connection or Connection(self._port)
                outcome = self._classify(self._request(connection))
                if not connection.reusable:  # Envoy closes it when it answers before it has read the whole request
                    connection.close()
                    connection = None
            except OSError as error:
                outcome = type(error).__name__
                if connection:
                    connection.close()
                connection = None
            with self._counted:
                self.outcomes[outcome] += 1
                self._counted.notify_all()
            time.sleep(_PAUSE_S)
        if connection:
            connection.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
