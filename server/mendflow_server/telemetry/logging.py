"""Structured logs on standard output: readable text on a terminal, JSON lines otherwise."""

from __future__ import annotations

import codecs
import logging
import sys
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor

    from mendflow_server.settings import Settings

__all__ = ["configure_logs"]


def configure_logs(settings: Settings) -> None:
    """Send the logs of the server and of its libraries to standard output, in one format."""
    level = logging.getLevelName(settings.log_level.upper())
    # A process that was started with standard output closed has none.
    terminal = sys.stdout is not None and sys.stdout.isatty()
    utf8 = codecs.lookup(_encoding()).name == "utf-8"
    console = settings.log_format == "console" or (settings.log_format == "auto" and terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ending: list[Processor] = (
        # Use the plain traceback: the others show local variables, which may contain secrets.
        [structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=repr, ensure_ascii=not utf8),
        ]
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
    # The logs of the libraries are useful only for debugging.
    root.setLevel(level if settings.log_level == "debug" else max(level, logging.WARNING))


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


class _Output:
    """Standard output. It may be closed, disconnected or full, which must not stop the server."""

    def write(self, text: str) -> Any:
        """Write a line."""
        if sys.stdout is None:
            return 0
        try:
            return sys.stdout.write(text)
        except UnicodeEncodeError:
            return self._write_escaped(text)
        except (OSError, ValueError):
            return 0

    def _write_escaped(self, text: str) -> Any:
        # A name may have an unpaired surrogate. Write it escaped, as JSON does.
        encoding = _encoding()
        try:
            return sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):
            return 0

    def flush(self) -> None:
        """Flush."""
        if sys.stdout is None:
            return
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            return
