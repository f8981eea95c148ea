"""What is asked of the engine, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mendflow.authoring.workflow import Workflow
    from mendflow.v1.event_pb2 import Event, TraceContext
    from mendflow.v1.payload_pb2 import Payload
    from mendflow_server.store.records import Row

__all__ = ["Begun", "Ending", "StartCommand"]


@dataclass(slots=True)
class StartCommand:
    """A start that has passed every check that needs no store."""

    workflow_id: str
    definition: Workflow[Any, Any]
    #: As received; None: absent.
    input: Payload | None
    #: The decoded input, ready for the function.
    argument: object
    labels: dict[str, str]
    trace: TraceContext
    #: How long to wait for the end, in seconds, once the start is on disk.
    wait: float = 0.0


class Begun(NamedTuple):
    """A start that is on disk."""

    row: Row
    #: Whether this call started it.
    started: bool
    #: The final event, where the end was waited for and came.
    final: Event | None = None
    #: The command's wait is over, for the end has come or its time has passed; the row may be older than that.
    waited: bool = False


@dataclass(slots=True)
class Ending:
    """A workflow with its first event and, when it has ended, its last."""

    row: Row
    started: Event | None
    final: Event | None
