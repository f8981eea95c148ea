"""A ledger of all replies, compared with the store: what was acknowledged is stored, now and at the end."""

from __future__ import annotations

import collections
import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

from mendflow.v1 import event_pb2, workflow_pb2
from mendflow_server.engine.watch_hub import kind_of
from mendflow_server.history.state import FINAL_STATES, History
from mendflow_server.store.records import InboxKind
from tests.support.promises import Evidence, Reply, Row, Stored, broken, read_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tests.fuzz.contract import Answer, Method

#: The refusals after which a signal has not been sent.
_NOT_SENT = {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}
#: The replies that the checker judges. The ledger itself judges the rest.
_JUDGED = {"started", "result", "signalled", "refused", "cancelled"}
_STOPPED = {workflow_pb2.WORKFLOW_STATE_PAUSED, workflow_pb2.WORKFLOW_STATE_QUARANTINED}
_CANCELLING = workflow_pb2.WORKFLOW_STATE_CANCELLING


#: By workflow, the kind and the content of each message that its driver has not taken in yet.
Inbox = dict[str, list[tuple[int, bytes]]]


class Ledger:
    """The replies about each workflow, of the example and of all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._replies: dict[str, list[Reply]] = collections.defaultdict(list)
        #: Since the last look: the workflows that were touched, and the events that were shown.
        self._touched: set[str] = set()
        self._shown: list[tuple[str, list[event_pb2.Event]]] = []
        #: The number of entries of each kind.
        self.entries: collections.Counter[str] = collections.Counter()
        #: By rpc, what to enter for the request and each response.
        self._entries: dict[str, Callable[[Any, Any], None]] = {
            "StartWorkflow": lambda _, response: self._started(response.workflow),
            "BatchStartWorkflows": lambda _, response: self._batch_started(response.outcomes),
            "GetWorkflow": lambda _, response: self._got(response.workflow),
            "SignalWorkflow": lambda request, _: self._signalled(request),
            "CancelWorkflow": lambda request, _: self._add_reply("cancelled", request.workflow_id, None),
            "TerminateWorkflow": lambda _, response: self._was_terminated(response.workflow),
            "ResumeWorkflow": lambda request, _: self._add_reply("resumed", request.workflow_id, None),
            "DeleteWorkflow": lambda request, _: self._was_deleted(request.workflow_id),
            "WatchWorkflow": lambda request, response: self._was_shown(request, response.events),
            "ListEvents": lambda request, response: self._was_shown(request, response.events),
        }

    def note(self, method: Method, request: Any, answer: Answer) -> None:
        """Enter the replies to this call. ``request`` is None if its bytes were no message."""
        if request is None or not method.ours:
            return
        if method.name == "SignalWorkflow" and answer.code in _NOT_SENT and request.request_id:
            self._add_reply("refused", request.workflow_id, request.request_id)
        enter = self._entries.get(method.name)
        if answer.code == "OK" and enter is not None:
            for response in answer.responses:
                enter(request, response)

    def _add_reply(self, kind: str, workflow_id: str, detail: Any) -> None:
        self._replies[workflow_id].append(Reply(kind, workflow_id, detail))
        self._touched.add(workflow_id)
        self.entries[kind] += 1

    def _started(self, workflow: workflow_pb2.Workflow) -> None:
        self._add_reply("started", workflow.workflow_id, workflow.uid)

    def _batch_started(self, outcomes: Any) -> None:
        for outcome in outcomes:
            if outcome.HasField("response"):
                self._started(outcome.response.workflow)

    def _got(self, workflow: workflow_pb2.Workflow) -> None:
        if workflow.state in FINAL_STATES:
            self._add_reply("result", workflow.workflow_id, workflow)

    def _signalled(self, request: Any) -> None:
        self._add_reply("signalled" if request.request_id else "nameless", request.workflow_id, request.request_id)

    def _was_terminated(self, workflow: workflow_pb2.Workflow) -> None:
        # Otherwise the command waits in the inbox.
        if workflow.state == workflow_pb2.WORKFLOW_STATE_TERMINATED:
            self._add_reply("terminated", workflow.workflow_id, None)

    def _was_deleted(self, workflow_id: str) -> None:
        """Forget what was said of the workflow: a later one may have its id."""
        self._replies.pop(workflow_id, None)
        self._touched.discard(workflow_id)
        self._shown = [each for each in self._shown if each[0] != workflow_id]
        self.entries["deleted"] += 1

    def _was_shown(self, request: Any, events: Iterable[event_pb2.Event]) -> None:
        self._shown.append((request.workflow_id, list(events)))
        self._touched.add(request.workflow_id)

    # Looking.

    def look(self) -> list[str]:
        """Return where the store contradicts the replies about the workflows touched since the last look."""
        touched, self._touched = self._touched, set()
        shown, self._shown = self._shown, []
        with contextlib.closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, isolation_level=None)) as store:
            # One snapshot: the server continues meanwhile.
            store.execute("begin")
            stored, inbox, untaken = _read(store, touched)
        wrong = self._faults(stored, inbox, touched)
        for workflow_id, row in stored.rows.items():
            wrong += _faults_of_row(workflow_id, row, stored.histories[workflow_id], untaken[workflow_id])
        for workflow_id, events in shown:
            kept = {event.sequence: event for event in stored.histories.get(workflow_id, [])}
            wrong += [f"{workflow_id}: shown was {each}" for each in events if kept.get(each.sequence) != each]
        return wrong

    def look_at_all(self) -> list[str]:
        """Return what is wrong with a store that no server has open any more, by all replies ever."""
        with contextlib.closing(sqlite3.connect(self._path)) as store:
            inbox = _read_inbox(store)
        return self._faults(read_store(self._path), inbox, self._replies.keys())

    def _faults(self, stored: Stored, inbox: Inbox, ids: Iterable[str]) -> list[str]:
        replies = [each for workflow_id in ids for each in self._due(workflow_id, inbox.get(workflow_id, []))]
        wrong = [str(each) for each in broken(Evidence(stored, replies=replies, over=False))]
        for workflow_id in ids:
            history, waiting = stored.histories.get(workflow_id, []), _signals(inbox.get(workflow_id, []))
            kinds = collections.Counter(each.kind for each in self._replies.get(workflow_id, ()))
            received = [event.signal_received for event in history if event.HasField("signal_received")]
            nameless = sum(not signal.request_id for signal in (*received, *waiting))
            if nameless < kinds["nameless"]:
                wrong.append(
                    f"{workflow_id}: {kinds['nameless']} signals without an id were acknowledged, not {nameless}"
                )
            if kinds["terminated"] and not history[-1].HasField("workflow_terminated"):
                wrong.append(f"{workflow_id}: its termination was acknowledged, its history ends with {history[-1]}")
            if kinds["resumed"] and not any(event.HasField("workflow_resumed") for event in history):
                wrong.append(f"{workflow_id}: its resume was acknowledged, but it is not in the history")
        return wrong

    def _due(self, workflow_id: str, inbox: list[tuple[int, bytes]]) -> Iterator[Reply]:
        """Yield what must be true by now: messages in the inbox may come later, and refused ones may be sent again."""
        on_the_way: set[tuple[str, Any]] = {("signalled", signal.request_id) for signal in _signals(inbox)}
        if any(kind == InboxKind.CANCEL for kind, _ in inbox):
            on_the_way.add(("cancelled", None))
        replies = self._replies.get(workflow_id, [])
        sent = {each.detail for each in replies if each.kind == "signalled"}
        for each in replies:
            if each.kind in _JUDGED and not (
                (each.kind in ("signalled", "cancelled") and (each.kind, each.detail) in on_the_way)
                or (each.kind == "refused" and each.detail in sent)
            ):
                yield each


def _signals(inbox: Iterable[tuple[int, bytes]]) -> list[event_pb2.SignalReceived]:
    return [event_pb2.SignalReceived.FromString(content) for kind, content in inbox if kind == InboxKind.SIGNAL]


def _read(store: sqlite3.Connection, ids: Iterable[str]) -> tuple[Stored, Inbox, dict[str, int]]:
    """Return these workflows' rows and histories, their inboxes, and how many signals the rows call untaken."""
    histories: dict[str, list[event_pb2.Event]] = {}
    rows: dict[str, Row] = {}
    inbox: Inbox = {}
    untaken: dict[str, int] = {}
    query = "select key, uid, state, generation, last_sequence, untaken_signals from workflows where workflow_id = ?"
    for workflow_id in ids:
        for key, uid, state, generation, last_sequence, signals in store.execute(query, (workflow_id,)).fetchall():
            rows[workflow_id] = Row(uid, state, generation, last_sequence)
            untaken[workflow_id] = signals
            found = store.execute("select bytes from events where key = ? order by sequence", (key,))
            histories[workflow_id] = [event_pb2.Event.FromString(content) for (content,) in found]
            inbox[workflow_id] = store.execute("select kind, content from inbox where key = ?", (key,)).fetchall()
    return Stored(histories, rows), inbox, untaken


def _read_inbox(store: sqlite3.Connection) -> Inbox:
    inbox: Inbox = collections.defaultdict(list)
    for workflow_id, kind, content in store.execute(
        "select workflow_id, kind, content from inbox join workflows using (key)"
    ):
        inbox[workflow_id].append((kind, content))
    return inbox


def _faults_of_row(workflow_id: str, row: Row, events: list[event_pb2.Event], untaken: int) -> Iterator[str]:
    """Yield where a row contradicts its history."""
    history = History()
    for event in events:
        if not kind_of(event):
            yield f"{workflow_id}: event {event.sequence} is of no kind"
            return
        history.apply(event)
    if row.state not in workflow_pb2.WorkflowState.values() or not row.state:
        yield f"{workflow_id}: the state {row.state} does not exist"
    if history.final is None and (row.state if row.state in _STOPPED else 0) != history.stopped:
        yield f"{workflow_id}: its state is {row.state}, by the history it was stopped as {history.stopped}"
    cancelling = bool(history.cancel) and history.final is None and not history.stopped
    if (row.state == _CANCELLING) != cancelling:
        yield f"{workflow_id}: its state is {row.state}, the history {'has' if cancelling else 'has no'} cancel"
    if history.untaken_signals != untaken:
        yield f"{workflow_id}: the row counts {untaken} signals as untaken, the history {history.untaken_signals}"
