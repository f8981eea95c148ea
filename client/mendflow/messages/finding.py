"""Whether a workflow has exported messages: those of a module are in a lock file beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from mendflow.messages.exports import WorkflowMessages
    from mendflow.workflow import Workflow

__all__ = ["COMMAND", "find_messages", "lock_path"]

#: What makes the messages of a module, for people to copy.
COMMAND: Final = "mendflow export-protos {module} --out protos"


def lock_path(module: ModuleType) -> Path | None:
    """Answer where a module's lock file lies, be it there or not; None: the module has no file."""
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).with_suffix(".protos.lock.json")


def find_messages(workflow: Workflow[Any, Any], siblings: Iterable[Workflow[Any, Any]]) -> WorkflowMessages | None:
    """Answer the messages of a workflow by the lock beside its module; None: it is not in one, or there is none.

    ``siblings`` are the module's workflows. Raises `DefinitionError` when the lock cannot be read, or is behind the
    code.
    """
    module = sys.modules.get(workflow.function.__module__)
    path = None if module is None else lock_path(module)
    if module is None or path is None:
        return None
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        return None
    # Not at the top: it takes 25 ms, in a client too. A server looks for locks as it starts.
    from mendflow.messages.exports import load_messages  # noqa: PLC0415 - as above

    found = load_messages(path, stamp, module.__name__, tuple(siblings))
    return found.workflows.get(workflow.name)
