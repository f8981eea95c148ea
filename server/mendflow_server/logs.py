"""Structured logs on standard output: for people on a terminal, JSON lines otherwise."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor

    from mendflow_server.settings import Settings

__all__ = ["configure_logs"]


def configure_logs(settings: Settings) -> None:
    """Send the server's own logs and those of the libraries it uses to standard output, in one format."""
    level = logging.getLevelName(settings.log_level.upper())
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stdout.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ending: list[Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=repr, ensure_ascii=False)]
    )
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(_Output()),  # type: ignore[arg-type] # all it needs is write and flush
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(_Output())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # The libraries' own chatter is of interest only when something is looked for.
    root.setLevel(level if settings.log_level == "debug" else max(level, logging.WARNING))


class _Output:
    """Standard output, which may go away: that must not stop the server."""

    def write(self, text: str) -> Any:
        """Write a line."""
        try:
            return sys.stdout.write(text)
        except (BrokenPipeError, ValueError):
            return 0

    def flush(self) -> None:
        """Flush."""
        try:
            sys.stdout.flush()
        except (BrokenPipeError, ValueError):
            return
