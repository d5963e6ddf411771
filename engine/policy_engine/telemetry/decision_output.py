"""Where decisions are written: among the log lines, to a file, or to a collector."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler

from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.telemetry.logs import JsonFormatter

LOGGER = "policy_engine.decisions"
_repeated = RepeatedLines(logging.getLogger("policy_engine.telemetry"))


def decision_logger(
    output: str, endpoint: str, service_name: str, worker: int
) -> tuple[logging.Logger, Callable[[], None]]:
    """Return the logger of decisions for `output` (`log`, `otlp` or a path), and what to call at the end.

    A file is opened anew when it was renamed or removed, so that whoever rotates it needs no signal. Several processes
    may have it: each line is one write at its end.
    """
    if output == "log":
        return logging.getLogger(LOGGER), lambda: None
    logger = logging.getLogger(f"{LOGGER}.{'otlp' if output == 'otlp' else 'file'}")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    handler: logging.Handler
    if output == "otlp":
        from policy_engine.telemetry.otlp_logs import OtlpHandler  # noqa: PLC0415 - costs 0.3 s to import

        handler = OtlpHandler(endpoint, service_name, worker)
    else:
        handler = _File(output)
        handler.setFormatter(JsonFormatter())
    logger.handlers[:] = [handler]
    return logger, handler.close


class _File(WatchedFileHandler):
    """A file that cannot be written, or whose disk is full: that is said in the log, and requests go on.

    So do worker processes that start then; the file is tried anew with each line. A pipe is not waited for, neither for
    its reader nor for room in it. Lines are whole, or not there.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self._rest = b""  # of a line that was written in part
        try:
            self.stream = self._open()
        except OSError as error:
            self._say(error)

    def _open(self) -> TextIOWrapper:
        self._rest = b""
        return TextIOWrapper(open(self.baseFilename, "ab", opener=_without_waiting), encoding=self.encoding)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line as one, so that those of other processes stand beside it and not in it."""
        try:
            self.reopenIfNeeded()
            stream = self.stream or self._open()
            self.stream = stream
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
            waiting = self._rest + line
            self._rest = waiting[os.write(stream.fileno(), waiting) :]
        except OSError as error:
            self._say(error)
        except Exception:  # as in the base class: a line that cannot be made fails no request
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say that a line could not be made."""
        self._say(None)

    def _say(self, error: OSError | None) -> None:
        reason = "its line could not be written" if error is None else error.strerror or str(error)
        _repeated.log(
            logging.ERROR, self.baseFilename, "the decision log %s: %s", self.baseFilename, reason,
            extra={"event": "decision_log"},
        )  # fmt: skip


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK, 0o666)
