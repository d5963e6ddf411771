"""Log lines as JSON (R-52), or plain for people; a separate module so that nothing else knows the format.

Records carry their facts in `extra`; this module alone decides which of them are written.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import IO, Any

_FIELDS = (
    "event",
    "request_id",
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
)


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
        for name in _FIELDS:
            value = record.__dict__.get(name)
            if value is not None:
                line[name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: str, form: str, *, worker: int | None = None, stream: IO[str] | None = None) -> None:
    """Send all log records to `stream` (standard error) as `json` or `text`; `worker` marks this process's lines.

    gRPC's C core writes lines of its own between them, in a form of its own, unless `GRPC_VERBOSITY` says otherwise;
    what matters of them, this engine logs itself. To be called before `grpc` is imported.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    handler = logging.StreamHandler(stream or sys.stderr)
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        who = "" if worker is None else f"[worker {worker}] "
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)-7s {who}%(name)s: %(message)s"))
    if worker is not None:
        handler.addFilter(_mark(worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _mark(worker: int) -> logging.Filter:
    class Mark(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            record.worker = worker
            return True

    return Mark()
