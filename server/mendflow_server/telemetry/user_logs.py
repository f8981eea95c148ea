"""The log lines of users' own code: at the server's level, with the workflow and the attempt that wrote them.

Libraries log much at info that is useful only for debugging. So a line of a
library is dropped below warning, and a line of the user's own code is not. Code
that replays has logged its lines before, in the run that the history records.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import structlog

from mendflow.authoring.context import ATTEMPT, RUN
from mendflow.tracebacks import is_foreign

if TYPE_CHECKING:
    from structlog.typing import EventDict

__all__ = ["UserLogs", "add_code", "drop_replayed"]


class UserLogs(logging.Filter):
    """Passes what concerns a reader of the server's log. ``all_libraries`` passes every line of a library too."""

    def __init__(self, *, all_libraries: bool) -> None:
        super().__init__()
        self._all = all_libraries
        #: The top-level packages of the served workflows. Their loggers are the user's, also if they are installed.
        self._packages: set[str] = set()
        #: The files of served modules, and the folders of their packages. A logger may have any name.
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def serve(self, module: str) -> None:
        """Note that an imported module has served workflows: it and its package are the user's own code."""
        names = module.split(".")
        self._packages.add(names[0])
        for end in range(1, len(names) + 1):
            found = sys.modules.get(".".join(names[:end]))
            file = getattr(found, "__file__", None)
            if file is None:
                continue  # A package without an __init__.py, which other distributions may share.
            if hasattr(found, "__path__"):
                self._folders.add(os.path.dirname(file))  # noqa: PTH120 - as text, which a record's path is too
            else:
                self._files.add(file)
            return

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is logged."""
        if is_foreign(record.pathname) and not self._is_served(record):
            return self._all or record.levelno >= logging.WARNING
        return not _is_replayed()

    def _is_served(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] in self._packages or record.pathname in self._files:
            return True
        # A folder of the user's may have an environment with libraries inside.
        return any(
            record.pathname.startswith(folder + os.sep) and not is_foreign(record.pathname[len(folder) :])
            for folder in self._folders
        )


def add_code(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Add whose code logs: the workflow, and the attempt of a step. Fields that the line has itself stay."""
    attempt = ATTEMPT.get()
    run = RUN.get()
    if attempt is not None:
        found: dict[str, Any] = {
            "workflow_id": attempt.workflow_id,
            "workflow_type": attempt.workflow_type,
            "step_key": attempt.step_key,
            "attempt": attempt.number,
        }
    elif run is not None:
        info = run.info
        found = {"workflow_id": info.workflow_id, "workflow_type": info.workflow_type}
    else:
        return event
    for name, value in found.items():
        event.setdefault(name, value)
    return event


def drop_replayed(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Raise DropEvent for a line of workflow code that replays."""
    if _is_replayed():
        raise structlog.DropEvent
    return event


def _is_replayed() -> bool:
    run = RUN.get()
    return run is not None and run.driving and run.replaying
