"""Finding the exported messages of a workflow, by the lock file beside its module."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mendflow.protogen.lock_path import lock_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mendflow.protogen.exports import WorkflowMessages, WorkflowType

__all__ = ["find_messages"]


def find_messages(workflow: WorkflowType, siblings: Iterable[WorkflowType]) -> WorkflowMessages | None:
    """Return the messages of a workflow; None: there is no lock file, or the workflow is not in it.

    ``siblings`` are the module's workflows. Raises `DefinitionError` when the lock file cannot be read, or is out
    of date.
    """
    module = sys.modules.get(workflow.function.__module__)
    path = None if module is None else lock_path(module)
    if module is None or path is None:
        return None
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        return None
    # This import takes 25 ms, in a client too. A server looks for lock files as it starts.
    from mendflow.protogen.exports import load_messages  # noqa: PLC0415 - as above

    found = load_messages(path, stamp, module.__name__, tuple(siblings))
    return found.workflows.get(workflow.name)
