"""Helpers for tests of workflows. They need the server: ``pip install 'mendflow[server]'``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mendflow.histories import read_history

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from mendflow.authoring.workflow import Workflow

__all__ = ["Replay", "ReplayFailed", "replay"]

#: The server's default, in bytes.
PAYLOAD_LIMIT: Final = 1 << 20


class ReplayFailed(AssertionError):
    """A server would pause the workflow with this code. The message is the explanation that it would give."""


class Replay(NamedTuple):
    """How far the code came in a history that it fits."""

    #: Recorded calls that the code has not made. A later new call would pause the workflow.
    unclaimed: tuple[str, ...]
    #: How the code ended, as in "returned"; empty when it waits for something that is not recorded.
    ending: str


def replay(
    workflow: Workflow[Any, Any],
    history: str | os.PathLike[str] | Mapping[str, Any],
    *,
    payload_limit: int = PAYLOAD_LIMIT,
) -> Replay:
    """Replay a history that `mendflow export` wrote against a workflow function, without a server.

    ``history`` is the file's path, or its content. No step runs. The code must make the calls that the history
    records; a history that has ended must lead to the same kind of end. ``payload_limit`` is the server's setting.

    Raise `ReplayFailed` when the code does not fit, and `mendflow.histories.BadHistory` when there is no history to
    replay.
    """
    try:
        from mendflow_server.replay.rehearsal import rehearse  # noqa: PLC0415 - only this helper needs the server
    except ModuleNotFoundError as error:
        message = f"mendflow.testing.replay needs the server ({error.name} is missing): pip install 'mendflow[server]'"
        raise ModuleNotFoundError(message, name=error.name) from None
    recorded = read_history(history)
    if recorded.workflow_type != workflow.name:
        raise ReplayFailed(
            f"workflow {recorded.workflow_id} is of type {recorded.workflow_type!r}, and this function is "
            f"{workflow.name!r}: keep the name of a renamed function with @workflow(name=...)"
        )
    rehearsal = rehearse(workflow, recorded.events, payload_limit=payload_limit)
    if rehearsal.problem:
        raise ReplayFailed(f"workflow {recorded.workflow_id}: {rehearsal.problem}")
    return Replay(rehearsal.unclaimed, rehearsal.ending)
