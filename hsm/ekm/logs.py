"""Structured logs of a key manager: one line an event, as text or JSON.

An event names serial numbers, volumes, labels, causes, process ids; never a key, a PIN or the admin
secret. Messages of libraries through ``logging`` have the same form. structlog is imported with the
first event, since the import takes a large part of a worker's start.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Logger:
    """A structured logger; ``configure`` sets format and level."""

    def __init__(self) -> None:
        """Start with text and the level WARNING."""
        self._format: LogFormat = "text"
        self._level = logging.WARNING
        self._process = ""
        self._write: Any = None

    def configure(self, log_format: LogFormat, level: LogLevel, process: str) -> None:
        """Set format, level and the name of this process; logs go to stderr."""
        self._format, self._process, self._write = log_format, process, None
        self._level = logging.getLevelNamesMapping()[level.upper()]
        root = logging.getLogger()
        root.handlers[:] = [_LibraryHandler(self)]
        root.setLevel(self._level)

    def info(self, event: str, **details: object) -> None:
        """Log normal operation."""
        self.log(logging.INFO, event, details)

    def warning(self, event: str, **details: object) -> None:
        """Log what an administrator should know."""
        self.log(logging.WARNING, event, details)

    def error(self, event: str, **details: object) -> None:
        """Log what an administrator should act on."""
        self.log(logging.ERROR, event, details)

    def log(self, level: int, event: str, details: dict[str, object]) -> None:
        """Log an event with a level of ``logging``."""
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


class _LibraryHandler(logging.Handler):
    """A ``logging`` handler that passes records on to a Logger."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record as an event."""
        self._logger.log(record.levelno, record.getMessage(), {"logger": record.name})


LOG = Logger()
"""The logger of this process."""
