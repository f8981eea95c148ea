"""What is asked of the engine, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mendflow.v1.event_pb2 import Event, TraceContext
    from mendflow.v1.payload_pb2 import Payload
    from mendflow.workflow import Workflow
    from mendflow_server.store.protocol import Row

__all__ = ["Ending", "StartCommand"]


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


@dataclass(slots=True)
class Ending:
    """A workflow with its first event and, when it has ended, its last."""

    row: Row
    started: Event | None
    final: Event | None
