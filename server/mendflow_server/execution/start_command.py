"""What a new workflow starts with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mendflow.authoring.workflow import Workflow
    from mendflow.v1.event_pb2 import TraceContext
    from mendflow.v1.payload_pb2 import Payload


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
    #: How long the caller waits for the end once the start is committed, in seconds.
    wait: float = 0.0
