"""What an attempt runs, and what it came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from mendflow.authoring.step import Step
    from mendflow.v1 import failure_pb2, payload_pb2


class AttemptRequest(NamedTuple):
    """One attempt of a step, as its AttemptStarted records it."""

    step: Step[..., Any]
    #: The workflow's uid, since an id can be used again.
    workflow_uid: str
    workflow_id: str
    workflow_type: str
    step_key: str
    number: int
    input: payload_pb2.Payload
    idempotency_key: str
    #: In seconds; None: no limit.
    timeout: float | None
    #: In seconds since the epoch; None: no limit.
    deadline: float | None
    #: Details of the newest heartbeat of an earlier attempt, as stored; empty: there is none.
    last_heartbeat: bytes


class Mark(Protocol):
    """A place for two numbers that outlive the process: which attempt executes there (`CrashMarker`)."""

    def __setitem__(self, index: int, value: int, /) -> None:
        """Store the sequence of an AttemptStarted (1), then the key of its workflow (0); a key of 0: none executes."""


class AttemptResult(NamedTuple):
    """What an attempt came to: an output or a failure."""

    output: payload_pb2.Payload | None
    failure: failure_pb2.Failure | None
    #: The retry policy excludes this error from retries.
    not_retried: bool = False
