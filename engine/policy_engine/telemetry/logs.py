"""Log lines as JSON (R-52), or plain for people; a separate module so that nothing else knows the format.

Records carry their facts in `extra`; this module alone decides which of them are written.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

LEVELS = ("debug", "info", "warning", "error")

_FIELDS = (
    "event",
    "request_id",
    "trace_id",
    "route",
    "policy",
    "policy_version",
    "failure",
    "failure_mode",
    "configuration",
    "worker",
    "source",
    "problems",
    "stack",
    "fields",
    "decision",
    "status",
    "reason",
    "hook",
    "condition",
    "milliseconds",
    "policies",
    "method",
    "path",
    "client_address",
    "repeats",
)

_TEXT_FIELDS = ("route", "request_id", "trace_id")
_LIBRARIES = ("site-packages", "dist-packages", str(Path(json.__file__).parents[1]))
"""Where the code of libraries is, the standard one among them."""


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time` (RFC 3339, UTC), `level`, `logger`, `message`, then the record's facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for `record`."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= facts_of(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the facts that a record carries in `extra`."""
    return {name: value for name in _FIELDS if (value := record.__dict__.get(name)) is not None}


class TextFormatter(logging.Formatter):
    """One line for people: time, level, who, message, and in brackets what finds the request again."""

    def __init__(self, worker: int | None) -> None:
        who = "" if worker is None else f"[worker {worker}] "
        super().__init__(f"%(asctime)s %(levelname)-7s {who}%(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line for `record`, without its traceback."""
        facts = {name: record.__dict__.get(name) for name in _TEXT_FIELDS}
        found = " ".join(f"{name}={_word(value)}" for name, value in facts.items() if value)
        return super().formatMessage(record) + (f" [{found}]" if found else "")


def _word(value: object) -> str:
    text = str(value)
    return text if text.isascii() and text.isprintable() and not set(text) & set(' "[]') else json.dumps(text)


def configure_logging(level: str, form: str, *, worker: int | None = None, stream: IO[str] | None = None) -> None:
    """Send log records to `stream` (standard error) as `json` or `text`; `worker` marks this process's lines.

    Of libraries, warnings and errors alone, whatever the level: what they have to say of each request is for those who
    write them. gRPC's C core writes lines of its own between them, in a form of its own, unless `GRPC_VERBOSITY` says
    otherwise; what matters of them, this engine logs itself. To be called before `grpc` is imported.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(worker))
    handler.addFilter(_is_ours_or_a_warning)
    handler.addFilter(_add_trace_id)
    if worker is not None:
        handler.addFilter(_mark(worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    # The filter would do; but on the request path the records should not even be made.
    logging.getLogger("hpack").setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Log from this severity (`debug`, `info`, `warning`, `error`) on."""
    logging.getLogger().setLevel(level.upper())


def level() -> str:
    """Return the least severity that is logged now."""
    return logging.getLevelName(logging.getLogger().level).lower()


def _is_ours_or_a_warning(record: logging.LogRecord) -> bool:
    if record.levelno >= logging.WARNING or record.name.startswith("policy"):
        return True
    return not any(part in record.pathname for part in _LIBRARIES)


def _add_trace_id(record: logging.LogRecord) -> bool:
    """Let a line that is written while a span is the current one bear the id of its trace."""
    tracing = sys.modules.get("opentelemetry.trace")
    if tracing is not None and "trace_id" not in record.__dict__:
        context = tracing.get_current_span().get_span_context()
        if context.is_valid:
            record.trace_id = f"{context.trace_id:032x}"
    return True


def _mark(worker: int) -> logging.Filter:
    class Mark(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            record.worker = worker
            return True

    return Mark()
