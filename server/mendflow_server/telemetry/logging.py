"""Structured logs on standard output: readable text on a terminal, JSON lines otherwise.

Steps run in this process, and may redirect, replace or close its standard output, or configure its logging. So the
server's log has what it needs from its start on, and asks for nothing that a step can change.
"""

from __future__ import annotations

import codecs
import logging
import sys
from typing import TYPE_CHECKING, Final

import structlog

from mendflow_server.telemetry.output import Output
from mendflow_server.telemetry.user_logs import UserLogs, add_code, drop_replayed

if TYPE_CHECKING:
    from structlog.typing import Processor

    from mendflow_server.settings import Settings

__all__ = ["configure_logs", "fix_loggers", "log_output"]

#: Where the log goes. Logging is configured for the whole process, so this is too.
OUTPUT: Final[list[Output]] = []


def configure_logs(settings: Settings) -> UserLogs:
    """Send the logs of the server, of users' code and of libraries to standard output, in one format.

    Return the filter that distinguishes the last two.
    """
    output = Output(sys.stdout)
    OUTPUT[:] = [output]
    level = logging.getLevelName(settings.log_level.upper())
    # A process that was started with standard output closed has none.
    terminal = sys.stdout is not None and sys.stdout.isatty()
    utf8 = codecs.lookup(output.encoding).name == "utf-8"
    console = settings.log_format == "console" or (settings.log_format == "auto" and terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_code,
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
        processors=[drop_replayed, *shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(output),  # type: ignore[arg-type] # all it needs is write and flush
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    users = UserLogs(all_libraries=settings.log_level == "debug")
    handler.addFilter(users)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    return users


def fix_loggers() -> None:
    """Give the server's loggers their configuration now and for good, before other code configures structlog."""
    for name, module in list(sys.modules.items()):
        if name.startswith("mendflow_server."):
            for value in list(vars(module).values()):
                if isinstance(value, structlog._config.BoundLoggerLazyProxy):  # noqa: SLF001 - it has no public name
                    value.bind()  # It keeps its first result (cache_logger_on_first_use).


def log_output() -> Output:
    """Return where the log goes; without a configured log, the standard output of now."""
    return OUTPUT[0] if OUTPUT else Output(sys.stdout)
