"""One JSON line a request, in a file of its own beside Ray Serve's logs of the same replica.

Ray Serve's logger runs four filters and formats each record twice (its file handler asks for the length first), which
took a quarter of the router's time. Here a line is made once; rotation is the standard library's.
"""

from __future__ import annotations

import logging
import logging.handlers
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import orjson

# Ray Serve writes this logger, and what hangs below it, as JSON lines: for everything but requests.
log = logging.getLogger("ray.serve.argus")

_MAX_BYTES = 100 * 1024 * 1024
_BACKUPS = 5


class RequestLog:
    """Writes request lines to `requests_*.log` in Ray Serve's log folder; without one, to the logger."""

    def __init__(self, level: str = "INFO") -> None:
        log.setLevel(level)
        self._logger = logging.Logger("argus.requests", level)
        self._lines: list[str] = []
        path = _beside_rays_log()
        if path is not None:
            handler = logging.handlers.RotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=_BACKUPS)
            handler.setFormatter(logging.Formatter("%(message)s"))
            self._logger.addHandler(handler)

    def write(self, fields: Mapping[str, str | int | float]) -> None:
        """Takes one line; `time` is added, in UTC. It is on disk after the next `flush`."""
        if self._logger.isEnabledFor(logging.INFO) and self._logger.handlers:
            stamp = datetime.now(UTC).isoformat(timespec="microseconds")
            self._lines.append(orjson.dumps({"time": stamp, **fields}).decode())

    def flush(self) -> None:
        """Writes what has been taken, in one go: each write costs more than the line."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._logger.handle(logging.LogRecord("", logging.INFO, "", 0, "\n".join(lines), None, None))


def _beside_rays_log() -> Path | None:
    """`requests_X.log` where this replica's `replica_X.log` lies."""
    for handler in logging.getLogger("ray.serve").handlers:
        target = getattr(handler, "target", handler)
        if isinstance(target, logging.FileHandler):
            path = Path(target.baseFilename)
            return path.with_name("requests_" + path.name.removeprefix("replica_"))
    return None
