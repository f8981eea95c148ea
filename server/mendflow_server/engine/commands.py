"""Commands to workflows: signal, cancel, resume and terminate.

A command is a message. It is committed to the workflow's inbox, delivered to
the workflow's execution, and recorded in the history there.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from mendflow.v1 import event_pb2, workflow_pb2
from mendflow_server import errors
from mendflow_server.engine.availability import ensure_available
from mendflow_server.history.state import FINAL_STATES
from mendflow_server.history.timestamps import micros_of
from mendflow_server.store.errors import StoreError
from mendflow_server.store.records import CommitOutcome, InboxKind, Message

if TYPE_CHECKING:
    from mendflow.v1 import payload_pb2
    from mendflow_server.engine.loader import Loader
    from mendflow_server.engine.reader import WorkflowReader
    from mendflow_server.engine.waiters import Waiters
    from mendflow_server.execution.services import Services
    from mendflow_server.runtime.random_bytes import RandomBytes
    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Row

#: The pauses between two looks into the inbox of a workflow that another replica may drive, in seconds.
_FIRST_LOOK: Final = 0.02
_LONGEST_LOOK: Final = 0.5
_RESUMABLE = (workflow_pb2.WORKFLOW_STATE_PAUSED, workflow_pb2.WORKFLOW_STATE_QUARANTINED)


class CommandSender:
    """Sends commands. Each raises `Draining`, `StoreNotCommitting` and `WorkflowNotFound`."""

    def __init__(
        self,
        *,
        services: Services,
        store: Store,
        reader: WorkflowReader,
        loader: Loader,
        waiters: Waiters,
        random_bytes: RandomBytes,
    ) -> None:
        self._services = services
        self._store = store
        self._reader = reader
        self._loader = loader
        self._waiters = waiters
        self._random_bytes = random_bytes

    async def signal(
        self, workflow_id: str, *, name: str, data: payload_pb2.Payload | None, request_id: str, actor: str
    ) -> bool:
        """Send a signal; return whether its request id was used before. Raises `TooManySignals`, `WorkflowEnded`."""
        content = event_pb2.SignalReceived(name=name, request_id=request_id, actor=actor)
        if data is not None and data.WhichOneof("kind"):
            content.data.CopyFrom(data)
        outcome, _ = await self._send(workflow_id, InboxKind.SIGNAL, request_id, content.SerializeToString())
        if outcome is CommitOutcome.INBOX_FULL:
            raise errors.TooManySignals(workflow_id, self._services.settings.untaken_signals_limit)
        if outcome is CommitOutcome.WORKFLOW_ENDED:
            row = await self._reader.find(workflow_id)
            raise errors.WorkflowEnded(workflow_id, row.state)
        return outcome is CommitOutcome.DUPLICATE and bool(request_id)

    async def cancel(self, workflow_id: str, *, reason: str, request_id: str, actor: str) -> Row:
        """Cancel a workflow; return its row afterwards. Raises `WorkflowEnded`."""
        row = await self._reader.find(workflow_id)
        if row.state == workflow_pb2.WORKFLOW_STATE_CANCELLING:
            return row
        content = event_pb2.CancelRequested(actor=actor, reason=reason, request_id=request_id)
        return await self._command(row, InboxKind.CANCEL, content, workflow_pb2.WORKFLOW_STATE_CANCELLED)

    async def resume(self, workflow_id: str, *, reason: str, actor: str) -> Row:
        """Resume a stopped workflow; return its row afterwards. Raises `WrongState`, `WorkflowEnded`."""
        row = await self._reader.find(workflow_id)
        if row.state not in FINAL_STATES and row.state not in _RESUMABLE:
            raise errors.WrongState(workflow_id, row.state, "only a PAUSED or QUARANTINED workflow can be resumed")
        content = event_pb2.WorkflowResumed(actor=actor, reason=reason)
        return await self._command(row, InboxKind.RESUME, content, None)

    async def terminate(self, workflow_id: str, *, reason: str, actor: str) -> Row:
        """End a workflow in any open state; return its row afterwards. Raises `WorkflowEnded`."""
        row = await self._reader.find(workflow_id)
        content = event_pb2.WorkflowTerminated(actor=actor, reason=reason)
        return await self._command(row, InboxKind.TERMINATE, content, workflow_pb2.WORKFLOW_STATE_TERMINATED)

    async def _command(self, row: Row, kind: InboxKind, content: Any, wanted: int | None) -> Row:
        """Send a message and wait a while until the history has it.

        A workflow that has ended already is refused, unless it is in the ``wanted`` state.
        """
        if row.state not in FINAL_STATES:
            outcome, message_id = await self._send(row.workflow_id, kind, "", content.SerializeToString())
            if outcome is CommitOutcome.COMMITTED:
                await self._taken(row.key, message_id)
            row = await self._reader.find(row.workflow_id)
            if outcome in (CommitOutcome.COMMITTED, CommitOutcome.DUPLICATE):
                # Code may catch a cancellation, and a resumed workflow may have ended. But a terminate that came to
                # another end came too late.
                late = kind is InboxKind.TERMINATE and row.state in FINAL_STATES and row.state != wanted
                if not late:
                    return row
        if row.state != wanted:
            raise errors.WorkflowEnded(row.workflow_id, row.state)
        return row

    async def _taken(self, key: int, message_id: int) -> None:
        """Wait until the message is in its workflow's history, but no longer than the patience."""
        if self._store.replicas is None:
            await self._waiters.message_taken(message_id)
            return
        # Another replica may drive the workflow, so the inbox is asked as well.
        taken = asyncio.ensure_future(self._waiters.message_taken(message_id))
        pause = _FIRST_LOOK
        while not taken.done():
            await asyncio.wait([taken], timeout=pause)
            pause = min(2 * pause, _LONGEST_LOOK)
            with contextlib.suppress(StoreError):
                if not taken.done() and all(each.id != message_id for each in await self._store.read_inbox(key)):
                    taken.cancel()
                    return

    async def _send(
        self, workflow_id: str, kind: InboxKind, request_id: str, content: bytes
    ) -> tuple[CommitOutcome, int]:
        """Commit a message; return its outcome and its id in the inbox."""
        ensure_available(self._services)
        # Every message has a request id, so that a commit of unknown outcome can be sent again.
        request_id = request_id or f"auto-{self._random_bytes(16).hex()}"
        message = Message(0, workflow_id, kind, request_id, micros_of(self._services.clock.time()), content)
        future: asyncio.Future[tuple[CommitOutcome, int]] = asyncio.get_running_loop().create_future()
        self._waiters.until_committed(future)
        self._services.committer.submit_message(message, lambda *decided: self._decided(future, *decided))
        outcome, message_id = await asyncio.shield(future)
        if outcome is CommitOutcome.NOT_FOUND:
            raise errors.WorkflowNotFound(workflow_id)
        if outcome is CommitOutcome.DAMAGED:
            raise errors.StoreNotCommitting(self._store.damage)
        if outcome is CommitOutcome.CONFLICT:
            raise errors.InternalFault(request_id)
        return outcome, message_id

    def _decided(
        self,
        future: asyncio.Future[tuple[CommitOutcome, int]],
        message: Message,
        outcome: CommitOutcome,
        key: int,
        message_id: int,
    ) -> None:
        if outcome is CommitOutcome.COMMITTED:
            if message.kind is not InboxKind.SIGNAL:
                self._waiters.expect_message(message_id)
            self._loader.deliver(key, message.stored_as(message_id))
        if outcome is CommitOutcome.DUPLICATE:
            # The first one may be ours, of a commit whose answer was lost, and its execution may not have it.
            self._loader.deliver_inboxes([key])
        if not future.done():
            future.set_result((outcome, message_id))
