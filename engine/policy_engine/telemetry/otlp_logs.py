"""Decisions as OpenTelemetry log records, sent in batches to a collector over OTLP/HTTP.

A separate module because only a worker process with `decision_log.output: otlp` imports it. When the collector is away
records are dropped, never waited for.
"""

from __future__ import annotations

import logging
import os
from pkgutil import extend_path
from typing import Any

import opentelemetry

# See `spans`.
opentelemetry.__path__ = extend_path(opentelemetry.__path__, "opentelemetry")

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.json.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from policy_engine import __version__
from policy_engine.telemetry.logs import facts_of

_FLUSH_SECONDS = 5
_PATH = "/v1/logs"
"""Where collectors take logs below their base path (OTLP 1.9, OTLP/HTTP Request)."""


class OtlpHandler(logging.Handler):
    """Sends log records; `close` sends what is left, for at most five seconds."""

    def __init__(self, endpoint: str, service_name: str, worker: int) -> None:
        super().__init__()
        resource = Resource.create(
            {
                "service.name": service_name,
                "service.version": __version__,
                "service.instance.id": f"{os.uname().nodename}/{worker}",
            }
        )
        self._provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPLogExporter(endpoint=f"{endpoint.removesuffix(_PATH)}{_PATH}")
        self._provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
        self._logger = self._provider.get_logger("policy_engine.decisions", __version__)

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record over to the exporter's thread."""
        facts = facts_of(record)
        trace = facts.pop("trace_id", None)
        attributes: dict[str, Any] = {
            name: value if isinstance(value, str | bool | int | float) else str(value) for name, value in facts.items()
        }
        self._logger.emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                trace_id=int(trace, 16) if trace else None,
                severity_number=SeverityNumber.INFO,
                severity_text="INFO",
                body=record.getMessage(),
                attributes=attributes,
            )
        )

    def close(self) -> None:
        """Send what is left. Blocks."""
        self._provider.force_flush(_FLUSH_SECONDS * 1000)
        self._provider.shutdown()
        super().close()
