"""The client's watch against faulty servers: it reports the fault, or continues without a loss."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from mendflow import Client
from mendflow.errors import LimitExceeded, SequenceOutOfRange, ServerFault, ServerUnavailable
from mendflow.v1 import event_pb2, workflow_pb2, workflow_service_pb2_grpc
from mendflow.v1 import workflow_service_pb2 as ws

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    Answer = Sequence[ws.WatchWorkflowResponse | tuple[grpc.StatusCode, str, str]]

FOREVER = 3_600.0


class Odd(workflow_service_pb2_grpc.WorkflowServiceServicer):
    """A service that answers each watch with a test's script: frames, and a status at the end."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[tuple[int, list[int]]] = []
        self.waits = 0
        self.never = asyncio.Event()

    async def WatchWorkflow(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 - the rpc's name
        self.asked.append((request.after_sequence, list(request.kinds)))
        for each in self.answers.pop(0):
            if isinstance(each, ws.WatchWorkflowResponse):
                yield each
                continue
            code, message, reason = each
            if reason:
                number: int = code.value[0]
                status = status_pb2.Status(code=number, message=message)
                status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="mendflow"))
                context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            await context.abort(code, message)

    async def GetWorkflow(self, request: Any, context: Any) -> Any:  # noqa: N802 - the rpc's name
        if not request.HasField("wait"):
            return ws.GetWorkflowResponse(
                workflow=workflow_pb2.Workflow(workflow_id="w", uid="u", state=workflow_pb2.WORKFLOW_STATE_RUNNING)
            )
        self.waits += 1
        if self.waits == 1:
            # A dead host: no answer, no reset.
            await self.never.wait()
        return ws.GetWorkflowResponse(
            workflow=workflow_pb2.Workflow(workflow_id="w", uid="u", state=workflow_pb2.WORKFLOW_STATE_SUCCEEDED)
        )


@contextlib.asynccontextmanager
async def odd_server(*answers: Answer) -> AsyncIterator[tuple[Odd, Client]]:
    make: Any = Odd  # It is abstract, but the client does not call the other rpcs.
    servicer: Odd = make()
    servicer.answers = list(answers)
    server = grpc.aio.server()
    workflow_service_pb2_grpc.add_WorkflowServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with Client(f"127.0.0.1:{port}", retry_for=5.0) as client:
            yield servicer, client
    finally:
        servicer.never.set()
        await server.stop(None)


def frame(*sequences: int, last: int = 0) -> ws.WatchWorkflowResponse:
    events = [event_pb2.Event(sequence=sequence) for sequence in sequences]
    return ws.WatchWorkflowResponse(events=events, last_sequence=last or max(sequences, default=0))


async def watched(client: Client, **options: Any) -> list[int]:
    return [event.sequence async for event in client.handle("w").watch(**options)]


async def test_a_gap_is_an_error_and_no_event_behind_it_is_given() -> None:
    async with odd_server([frame(1, 2), frame(4, 5)]) as (_, client):
        events = client.handle("w").watch()
        assert [(await anext(events)).sequence for _ in range(2)] == [1, 2]
        with pytest.raises(ServerFault, match="skipped from event 2 to 4"):
            await anext(events)


@pytest.mark.parametrize(("after", "first"), [(0, 2), (3, 5)])
async def test_gap_at_the_beginning_is_an_error_too(after: int, first: int) -> None:
    async with odd_server([frame(first)]) as (_, client):
        with pytest.raises(ServerFault, match=f"from event {after} to {first}"):
            await watched(client, after_sequence=after)


async def test_repeated_events_are_delivered_once() -> None:
    async with odd_server([frame(1, 2), frame(2, 3), frame(1, 2, 3, 4)]) as (_, client):
        assert await watched(client) == [1, 2, 3, 4]


CUT = (grpc.StatusCode.UNAVAILABLE, "gone", "")


async def test_cut_watch_resumes_at_its_cursor_also_between_filtered_events() -> None:
    kinds = (event_pb2.EVENT_KIND_TIMER_FIRED,)
    answers: list[Answer] = [[frame(2, last=5), CUT], [frame(last=9), CUT], [frame(12, last=12)]]
    async with odd_server(*answers) as (server, client):
        assert await watched(client, kinds=kinds) == [2, 12]
    assert server.asked == [(0, [41]), (5, [41]), (9, [41])]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed"),
        (grpc.StatusCode.CANCELLED, "a proxy gave up"),
        (grpc.StatusCode.UNKNOWN, "Stream removed"),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "a proxy's limit"),
    ],
)
async def test_status_that_says_nothing_of_the_workflow_is_a_cut(code: grpc.StatusCode, message: str) -> None:
    reported: list[tuple[bool, str]] = []
    async with odd_server([frame(1), (code, message, "")], [frame(2)]) as (server, client):
        assert await watched(client, on_connection=lambda *each: reported.append(each)) == [1, 2]
    assert [after for after, _ in server.asked] == [0, 1]
    assert [connected for connected, _ in reported] == [False, True]
    assert message in reported[0][1]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((grpc.StatusCode.INTERNAL, "the connection to the store broke", "INTERNAL"), ServerFault),
        ((grpc.StatusCode.INTERNAL, "no idea", ""), ServerFault),
        ((grpc.StatusCode.OUT_OF_RANGE, "purged", "HISTORY_PURGED"), SequenceOutOfRange),
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, "too many", "TOO_MANY_WATCHES"), LimitExceeded),
        ((grpc.StatusCode.UNIMPLEMENTED, "not here", ""), ServerFault),
    ],
)
async def test_refusal_by_the_server_is_raised_at_once(
    answer: tuple[grpc.StatusCode, str, str], kind: type[Exception]
) -> None:
    async with odd_server([frame(1), answer]) as (server, client):
        with pytest.raises(kind, match=answer[1]):
            await watched(client)
    assert len(server.asked) == 1


async def test_draining_server_is_retried_until_patience_ends() -> None:
    draining = (grpc.StatusCode.UNAVAILABLE, "the server drains", "DRAINING")
    async with odd_server([frame(1), draining], *[[draining]] * 100) as (server, client):
        handle = client.handle("w")
        handle.retry_for = 0.3
        with pytest.raises(ServerUnavailable) as caught:
            [event async for event in handle.watch()]
    assert caught.value.reason == "DRAINING"
    assert {after for after, _ in server.asked[1:]} == {1}
    assert 1 < len(server.asked) < 10, "retries, but not without a pause"


async def test_result_without_timeout_survives_the_deadline_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    # A stalled connection makes the call's deadline pass, and the caller set no timeout.
    monkeypatch.setattr("mendflow.client.handle.WAIT", 0.1)
    monkeypatch.setattr("mendflow.client.client.MARGIN", 0.1)
    async with odd_server() as (server, client):
        await client.handle("w", result_type=type(None)).result()
    assert server.waits == 2
