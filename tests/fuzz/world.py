"""The workflows that exist while requests are fuzzed, one in each state, and their names in messages.

``@waiting`` is the id of the workflow that waits, ``@fresh-1`` one that the example itself may have started,
``@token`` a page token that goes with the request, ``@forged:1:7`` a well-formed one that the server never gave out.
Whatever a request may have changed is made again before the next example, so that each begins in the same world.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.descriptor import FieldDescriptor

from mendflow.v1 import event_pb2, operator_service_pb2, workflow_pb2
from mendflow.v1 import workflow_service_pb2 as ws
from mendflow.v1.payload_pb2 import Payload
from mendflow_server.api.page_tokens import events_token, types_token, workflows_token
from mendflow_server.api.validation import check_list_workflows
from mendflow_server.errors import Refusal
from mendflow_server.store.factory import open_store
from mendflow_server.store.records import Batch, Change, CommitOutcome, Cursor, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.servers import Server

#: How each kind of workflow is started: type, and input as JSON.
_STARTS = {
    "succeeded": ("long", "7"),
    "failed": ("fails", '"no"'),
    "cancelled": ("wait_for", '"x"'),
    "terminated": ("wait_for", '"x"'),
    "waiting": ("wait_for", '"x"'),
    "declared": ("declared", ""),
    "full": ("wait_for", '"x"'),
    "sleeping": ("sleeper", "3600"),
    "backoff": ("retried_late", '"x"'),
    "paused": ("paused", '"/no/such/flag"'),
    "running": ("holds", "3600"),
    "cancelling": ("slow_to_clean", ""),
}
#: The workflows that are in the store before the server starts, many of each.
_SEEDED = {
    "quarantined": ("echo", workflow_pb2.WORKFLOW_STATE_QUARANTINED, event_pb2.STATE_REASON_CRASH_BUDGET),
    "not_served": ("chatty", workflow_pb2.WORKFLOW_STATE_WAITING, event_pb2.STATE_REASON_NOT_SERVED),
}
KINDS = (*_STARTS, *_SEEDED, "missing")
#: The workflows that have not ended, and one that has no room for more.
SIGNALLED = ("waiting", "declared", "full", "sleeping", "backoff", "paused", "running", "cancelling", *_SEEDED)
FRESH = ("@fresh-1", "@fresh-2", "")
#: The state or the reason in which a workflow of each kind is what its name says.
_READY = {
    "succeeded": workflow_pb2.WORKFLOW_STATE_SUCCEEDED,
    "failed": workflow_pb2.WORKFLOW_STATE_FAILED,
    "cancelled": workflow_pb2.WORKFLOW_STATE_CANCELLED,
    "terminated": workflow_pb2.WORKFLOW_STATE_TERMINATED,
    "paused": workflow_pb2.WORKFLOW_STATE_PAUSED,
    "running": workflow_pb2.WORKFLOW_STATE_RUNNING,
    "cancelling": workflow_pb2.WORKFLOW_STATE_CANCELLING,
}
SIGNAL_LIMIT = 5


async def seed(store_url: str, count: int) -> None:
    """Put workflows into a new store that a server can only reach by deaths or a change of its code."""
    store = open_store(store_url, signal_limit=SIGNAL_LIMIT)
    await store.open()
    try:
        changes = [_seeded(kind, index) for kind in _SEEDED for index in range(count)]
        result = await store.commit(Batch(changes))
        assert set(result.changes) <= {CommitOutcome.COMMITTED}
    finally:
        await store.close()


def _seeded(kind: str, index: int) -> Change:
    workflow_type, state, reason = _SEEDED[kind]
    started = event_pb2.Event(sequence=1)
    uid = f"{index + (10**9 if kind == 'quarantined' else 0):032x}"
    started.workflow_started.workflow_type = workflow_type
    started.workflow_started.uid = uid
    started.workflow_started.workflow_id = f"{kind}-{index}"
    started.workflow_started.input.json = '"seeded"'
    started.workflow_started.trace.trace_id = f"{index + 1:032x}"
    events = [started]
    if kind == "quarantined":
        quarantined = event_pb2.Event(sequence=2)
        quarantined.workflow_quarantined.crashes = 3
        events.append(quarantined)
    row = Row(
        key=0,
        workflow_id=f"{kind}-{index}",
        uid=uid,
        workflow_type=workflow_type,
        state=state,
        reason=reason,
        explanation="",
        generation=1,
        replica_id="of-old",
        last_sequence=len(events),
        wake_time=None,
        create_time=1_700_000_000_000_000 + index,
        end_time=None,
        untaken_signals=0,
        trace_id=f"{index + 1:032x}",
        labels={},
    )
    return Change(row, None, [(event.sequence, event.SerializeToString()) for event in events])


class World:
    """The workflows that exist, and their names in messages."""

    def __init__(self, server: Server, seeded: int) -> None:
        self._server = server
        self._seeded = seeded
        self._made = 0
        self._examples = 0
        self._ids: dict[str, str] = {"missing": "missing"}
        self._uids: dict[str, str] = {"missing": "0" * 32}
        self._used: set[str] = set(_STARTS) | set(_SEEDED)

    async def refresh(self) -> None:
        """Make again what the last example may have changed."""
        self._examples += 1
        used, self._used = sorted(self._used), set()
        await asyncio.gather(*(self._make(kind) for kind in used))

    async def _make(self, kind: str) -> None:
        stub = self._server.stub
        self._made += 1
        if kind in _SEEDED:
            number = 0 if kind not in self._ids else int(self._ids[kind].rpartition("-")[2]) + 1
            if number >= self._seeded:
                return  # None is as it was; the last one stays in use, whatever happened to it.
            workflow_id = f"{kind}-{number}"
        else:
            workflow_id = f"{kind}-{self._made}"
            workflow_type, text = _STARTS[kind]
            payload = Payload(json=text) if text else None
            await stub.StartWorkflow(
                ws.StartWorkflowRequest(workflow_id=workflow_id, workflow_type=workflow_type, input=payload)
            )
        self._ids[kind] = workflow_id
        if kind in ("cancelled", "cancelling"):
            await self._until(workflow_id, lambda w: w.state != workflow_pb2.WORKFLOW_STATE_PENDING)
            await stub.CancelWorkflow(ws.CancelWorkflowRequest(workflow_id=workflow_id))
        elif kind == "terminated":
            await self._server.operator.TerminateWorkflow(
                operator_service_pb2.TerminateWorkflowRequest(workflow_id=workflow_id)
            )
        elif kind == "full":
            for _ in range(SIGNAL_LIMIT):
                await stub.SignalWorkflow(
                    ws.SignalWorkflowRequest(workflow_id=workflow_id, name="unheard", allow_undeclared=True)
                )
        self._uids[kind] = (await self._until(workflow_id, lambda w: _is_ready(kind, w))).uid

    async def _until(self, workflow_id: str, ready: Any) -> workflow_pb2.Workflow:
        async with asyncio.timeout(20):
            while True:
                found = await self._server.stub.GetWorkflow(ws.GetWorkflowRequest(workflow_id=workflow_id))
                if ready(found.workflow):
                    return found.workflow  # type: ignore[no-any-return]
                await asyncio.sleep(0.002)

    async def name(self, message: Any, *, touching: bool) -> None:
        """Put real ids and tokens into a message. With ``touching``, the named workflows may change."""
        for field, value in list(message.ListFields()):
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                continue
            if field.message_type is not None:
                for each in value if field.is_repeated else [value]:
                    await self.name(each, touching=touching)
            elif field.name == "page_token" and value.startswith(("@token", "@forged")):
                message.page_token = await self._token(message, value)
            elif field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated and value.startswith("@"):
                setattr(message, field.name, self._named(value, touching=touching))

    def _named(self, text: str, *, touching: bool) -> str:
        kind = text[1:]
        if text in FRESH:
            return f"example-{self._examples}-{kind}"
        if touching and kind in self._ids and kind != "missing":
            self._used.add(kind)
        return self._ids.get(kind, text)

    async def _token(self, request: Any, text: str) -> str:
        """Return the token of the request's second page, or one that leads to a place that the test chooses."""
        first = type(request)()
        first.CopyFrom(request)
        first.page_token = ""
        first.page_size = 1
        _, *place = text.split(":")
        numbers = [int(number) for number in place] or [0, 0]
        stub = self._server.stub
        questions: dict[str, tuple[Callable[..., str], Any]] = {
            "ListWorkflowsRequest": (self._forge_workflows, stub.ListWorkflows),
            "ListEventsRequest": (self._forge_events, stub.ListEvents),
            "ListWorkflowTypesRequest": (lambda *_: types_token("m"), stub.ListWorkflowTypes),
        }
        forge, ask = questions[request.DESCRIPTOR.name]
        try:
            return forge(request, *numbers) if place else str((await ask(first)).next_page_token)
        except (grpc.RpcError, Refusal):
            return ""  # The request itself is invalid.

    def _forge_workflows(self, request: ws.ListWorkflowsRequest, create_time: int, key: int) -> str:
        condition = check_list_workflows(request, self._server.app.settings).condition
        return workflows_token(condition, Cursor(create_time, key))

    def _forge_events(self, request: ws.ListEventsRequest, _: int, after: int) -> str:
        uids = {self._ids[kind]: uid for kind, uid in self._uids.items()}
        return events_token(uids.get(request.workflow_id, ""), after)


def _is_ready(kind: str, workflow: workflow_pb2.Workflow) -> bool:
    if kind in _READY:
        return workflow.state == _READY[kind]
    if kind in _SEEDED:
        return workflow.state == _SEEDED[kind][1]
    return workflow.state == workflow_pb2.WORKFLOW_STATE_WAITING
