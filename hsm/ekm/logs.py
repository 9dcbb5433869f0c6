"""Structured logs of the key manager's processes: one line an event, for people or as JSON.

An event names serial numbers, volumes, labels, causes, process numbers; never a key, a PIN or the
admin secret. What libraries log through ``logging`` comes out in the same form. structlog is
imported when there is something to tell, since that takes a good part of a worker's start.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Logger:
    """Tells events; ``configure`` says how and from which level on."""

    def __init__(self) -> None:
        """Tell warnings and errors as text, until told otherwise."""
        self._format: LogFormat = "text"
        self._level = logging.WARNING
        self._process = ""
        self._write: Any = None

    def configure(self, log_format: LogFormat, level: LogLevel, process: str) -> None:
        """Log to standard error; ``process`` says which one of the key manager's this is."""
        self._format, self._process, self._write = log_format, process, None
        self._level = logging.getLevelNamesMapping()[level.upper()]
        root = logging.getLogger()
        root.handlers[:] = [_FromLibraries(self)]
        root.setLevel(self._level)

    def info(self, event: str, **details: object) -> None:
        """Tell what is as it should be."""
        self.tell(logging.INFO, event, details)

    def warning(self, event: str, **details: object) -> None:
        """Tell what somebody should know of."""
        self.tell(logging.WARNING, event, details)

    def error(self, event: str, **details: object) -> None:
        """Tell what somebody should see to."""
        self.tell(logging.ERROR, event, details)

    def tell(self, level: int, event: str, details: dict[str, object]) -> None:
        """Tell an event of a level of ``logging``."""
        if level < self._level:
            return
        if self._write is None:
            self._write = _writer(self._format)
        self._write.msg(
            event, level=logging.getLevelName(level).lower(), process=self._process, **details
        )


def _writer(log_format: LogFormat) -> Any:
    import structlog

    renderer: Any = (
        structlog.processors.JSONRenderer(sort_keys=True)
        if log_format == "json"
        else structlog.processors.LogfmtRenderer(
            key_order=["timestamp", "level", "event"], bool_as_flag=False
        )
    )
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[structlog.processors.TimeStamper(fmt="iso", utc=True), renderer],
        wrapper_class=structlog.BoundLogger,
    )


class _FromLibraries(logging.Handler):
    """Passes on what comes through ``logging``."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Tell a record as an event."""
        self._logger.tell(record.levelno, record.getMessage(), {"logger": record.name})


LOG = Logger()
"""The one logger of this process."""
configure = LOG.configure
