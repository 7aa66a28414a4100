"""Logs as lines of JSON on stderr: what happened, never what was in it.

A record's own fields come in `extra={"fields": {...}}`. Nothing that a client sent gets in but its
method and the route that it met: paths hold keys, and headers hold tokens.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

ROOT = "nt_memory"


class JsonFormatter(logging.Formatter):
    """One object a line: `time`, `level`, `logger`, `event`, then the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:  # type: ignore[explicit-override]  # 3.12
        """The line of a record."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


def log_as_json(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Send what the package and its HTTP server log to `stream`, stderr by default.

    The server's own lines come at WARNING and above: each request has one of ours.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter())
    # uvicorn takes a WebSocket that was refused with a status for one that was forgotten.
    handler.addFilter(lambda record: "without completing handshake" not in record.getMessage())
    for name, at in ((ROOT, level), ("uvicorn", logging.WARNING), ("asyncio", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(at)
