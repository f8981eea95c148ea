"""Whether an answer fits its request, where the server did not refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpc_health.v1 import health_pb2

from mendflow_server.engine.watch_hub import kind_of
from mendflow_server.health.servicer import LIVENESS, READY_NAMES
from tests.fuzz.contract import BY_NAME, faults, faults_of_status

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from tests.fuzz.contract import Answer, Method

_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def faults_of_answer(method: Method, request: Message | None, answer: Answer) -> list[str]:
    """Return what is wrong with an answer. ``request`` is None if its bytes were no message."""
    wrong = faults(method, request, answer)
    return wrong if wrong or answer.code != "OK" else faults_of_ok(method, request, answer)


def faults_of_ok(method: Method, request: Any, answer: Answer) -> list[str]:
    """Return where the response does not fit the request."""
    if method.name == "BatchStartWorkflows":
        return _faults_of_outcomes(request, answer.responses[0].outcomes)
    if method.name == "WatchWorkflow":
        return _faults_of_frames(request, answer)
    if method.name == "Watch":
        return _faults_of_health(request, answer)
    response = answer.responses[0] if answer.responses else None
    if response is not None and "workflow" in response.DESCRIPTOR.fields_by_name:
        asked = request.workflow_id
        return [] if not asked or response.workflow.workflow_id == asked else [f"{asked} asked for, got {response}"]
    return []


def _faults_of_outcomes(request: Any, outcomes: Any) -> list[str]:
    wrong = [] if len(outcomes) == len(request.requests) else [f"{len(outcomes)} outcomes"]
    for start, outcome in zip(request.requests, outcomes, strict=False):
        if outcome.HasField("error"):
            wrong += faults_of_status(BY_NAME["StartWorkflow"], start, outcome.error)
        elif not outcome.HasField("response"):
            wrong.append("an outcome without a result")
    return wrong


def _faults_of_frames(request: Any, answer: Answer) -> list[str]:
    """Check that sequences rise, with gaps only where the filter leaves events out."""
    wrong = []
    last = request.after_sequence
    for frame in answer.responses:
        for event in frame.events:
            kind = kind_of(event)
            if event.sequence <= last or (not request.kinds and event.sequence != last + 1):
                wrong.append(f"event {event.sequence} after {last}")
            if request.kinds and kind not in request.kinds:
                wrong.append(f"event {event.sequence} is of kind {kind}, asked for were {request.kinds}")
            last = event.sequence
        if frame.last_sequence < last:
            wrong.append(f"the cursor {frame.last_sequence} is behind event {last}")
        last = frame.last_sequence
    return wrong


def _faults_of_health(request: Any, answer: Answer) -> list[str]:
    """Check the statuses: the watch of an unknown service stays open with SERVICE_UNKNOWN, others report its state."""
    known = request.service in (*READY_NAMES, LIVENESS)
    statuses = [response.status for response in answer.responses]
    if statuses and all((status != _SERVICE_UNKNOWN) == known and status for status in statuses):
        return []
    return [f"the health of {request.service!r}, which there is{'' if known else ' not'}, is {statuses}"]
