"""Replay a recorded history against a workflow function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mendflow.histories import read_history

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from mendflow.authoring.workflow import Workflow

__all__ = ["Replay", "ReplayFailed", "replay"]

#: The server's default limit, in bytes.
PAYLOAD_LIMIT: Final = 1 << 20


class ReplayFailed(AssertionError):
    """A server would pause the workflow with this code. The message is the server's explanation."""


class Replay(NamedTuple):
    """The result of a successful replay."""

    #: The keys of recorded calls that the code did not make. A new call after them would pause the workflow.
    unclaimed: tuple[str, ...]
    #: How the code ended, such as "returned"; "" if it waits for an outcome that is not recorded.
    ending: str


def replay(
    workflow: Workflow[Any, Any],
    history: str | os.PathLike[str] | Mapping[str, Any],
    *,
    payload_limit: int = PAYLOAD_LIMIT,
) -> Replay:
    """Replay a history from `mendflow export` against a workflow function, without a server.

    ``history`` is the file's path or its parsed content. No step runs. The code must make the recorded calls, and if
    the workflow has ended, the code must end in the same way. ``payload_limit`` is the server's setting, in bytes.

    Raise `ReplayFailed` if the code does not fit the history, and `mendflow.histories.BadHistory` if the history is
    invalid.
    """
    try:
        from mendflow_server.replay.rehearsal import rehearse  # noqa: PLC0415 - only this helper needs the server
    except ModuleNotFoundError as error:
        message = f"mendflow.testing.replay needs the server ({error.name} is missing): pip install 'mendflow[server]'"
        raise ModuleNotFoundError(message, name=error.name) from None
    recorded = read_history(history)
    if recorded.workflow_type != workflow.name:
        raise ReplayFailed(
            f"workflow {recorded.workflow_id} has type {recorded.workflow_type!r}, but this function has type "
            f"{workflow.name!r}; keep the type of a renamed function with @workflow(name=...)"
        )
    rehearsal = rehearse(workflow, recorded.events, payload_limit=payload_limit)
    if rehearsal.problem:
        raise ReplayFailed(f"workflow {recorded.workflow_id}: {rehearsal.problem}")
    return Replay(rehearsal.unclaimed, rehearsal.ending)
