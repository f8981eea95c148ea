"""What a deploy of new code would do to the open workflows, predicted by rehearsals alone.

A `Source` lists the open workflows in pages and reads one history at a time, so that memory does not grow with their
number. There are two sources: the file of a store, opened for reading only, and a server, read over gRPC.
"""

from __future__ import annotations

import asyncio
import enum
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from google.protobuf.message import DecodeError

from mendflow import errors
from mendflow.v1 import event_pb2, workflow_pb2
from mendflow_server.history.state import FINAL_DETAILS, FINAL_STATES
from mendflow_server.replay.rehearsal import Rehearsal, rehearse
from mendflow_server.store.errors import StoreError
from mendflow_server.store.records import Filter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from mendflow import Client
    from mendflow.authoring.workflow import Workflow
    from mendflow_server.store.records import Cursor, Page

__all__ = ["OPEN_STATES", "Entry", "Finding", "ServerSource", "Source", "StoreSource", "Tally", "Verdict", "verify"]

#: Every state that is not final.
OPEN_STATES: Final = tuple(
    number for number in workflow_pb2.WorkflowState.values() if number and number not in FINAL_STATES
)
_PAGE: Final = 500
#: The reasons of a server's errors that may concern a single workflow.
_OF_ONE_WORKFLOW: Final = frozenset({"STORE_UNAVAILABLE", "INTERNAL"})


class Entry(NamedTuple):
    """An open workflow, as a source lists it."""

    workflow_id: str
    workflow_type: str
    state: int
    reason: int
    #: The key in the store; 0 when a server listed the workflow.
    key: int = 0


class Unreadable(Exception):
    """The history of one workflow cannot be read. Other histories may be readable."""


class Source(Protocol):
    """Reads open workflows and their histories."""

    async def count(self) -> int | None:
        """Return the number of open workflows, None when it is not known."""

    def entries(self) -> AsyncGenerator[Entry, None]:
        """Yield each open workflow."""

    async def history(self, entry: Entry) -> list[bytes] | None:
        """Return a workflow's encoded events, None when it no longer exists. Raise `Unreadable`."""


class Inspector(Protocol):
    """A store that is opened for reading only."""

    def count_open(self) -> int:
        """Return the number of open workflows."""

    def list_workflows(self, condition: Filter, *, limit: int, after: Cursor | None) -> Page:
        """Return a page of workflows, newest first."""

    def read_history(self, key: int) -> list[bytes]:
        """Return all encoded events of a workflow. Raise `StoreError`."""


class StoreSource:
    """Reads the file of a store."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector

    async def count(self) -> int | None:
        """See `Source.count`."""
        return self._inspector.count_open()

    async def entries(self) -> AsyncGenerator[Entry, None]:
        """See `Source.entries`."""
        after = None
        while True:
            page = self._inspector.list_workflows(Filter(states=OPEN_STATES), limit=_PAGE, after=after)
            for row in page.rows:
                yield Entry(row.workflow_id, row.workflow_type, row.state, row.reason, row.key)
            after = page.next
            if after is None:
                return

    async def history(self, entry: Entry) -> list[bytes] | None:
        """See `Source.history`."""
        try:
            return self._inspector.read_history(entry.key)
        except StoreError as error:
            raise Unreadable(str(error)) from None


class ServerSource:
    """Reads from a running server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def count(self) -> int | None:
        """See `Source.count`."""
        return None

    async def entries(self) -> AsyncGenerator[Entry, None]:
        """See `Source.entries`."""
        async for found in self._client.list(states=OPEN_STATES, page_size=_PAGE):
            yield Entry(found.workflow_id, found.workflow_type, found.state, found.reason)

    async def history(self, entry: Entry) -> list[bytes] | None:
        """See `Source.history`."""
        try:
            events = self._client.handle(entry.workflow_id).events()
            return [event.SerializeToString() async for event in events]
        except errors.WorkflowNotFound:
            return None
        except (errors.ServerUnavailable, errors.ServerFault) as error:
            if error.reason not in _OF_ONE_WORKFLOW:
                raise
            raise Unreadable(str(error)) from None


class Verdict(enum.StrEnum):
    """What the code would do to an open workflow."""

    #: It would continue.
    CONTINUES = "continues"
    #: The server would pause it, or keep it paused.
    PAUSES = "pauses"
    #: The server would cancel it without clean-up: it is CANCELLING, and the code cannot be replayed.
    LOSES_CLEANUP = "loses_cleanup"
    #: It would start calls that are marked as inserted before it continues with recorded calls.
    STARTS_INSERTED = "starts_inserted"
    #: It would keep waiting, although the code has not made all of the recorded calls.
    KEEPS_WAITING = "keeps_waiting"
    #: It is PAUSED because other code could not be replayed. This code can.
    RESUMES = "resumes"
    #: Its code would return or raise at once.
    ENDS = "ends"
    #: No module has its type.
    NOT_SERVED = "not_served"


class Finding(NamedTuple):
    """A workflow, and what the code would do to it."""

    entry: Entry
    verdict: Verdict
    #: Why it would pause, or how it would end.
    explanation: str = ""
    #: Recorded calls that the code has not made.
    unclaimed: tuple[str, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether the workflow can continue after the deploy."""
        return self.verdict not in (Verdict.PAUSES, Verdict.LOSES_CLEANUP)


@dataclass
class Tally:
    """The number of workflows with each verdict."""

    verdicts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    #: The number of workflows that no module serves, by type.
    not_served: dict[str, int] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        """Count a finding."""
        self.verdicts[finding.verdict] += 1
        if finding.verdict is Verdict.NOT_SERVED:
            name = finding.entry.workflow_type
            self.not_served[name] = self.not_served.get(name, 0) + 1

    @property
    def total(self) -> int:
        """The number of findings."""
        return sum(self.verdicts.values())

    @property
    def passes(self) -> bool:
        """Whether every workflow passes."""
        return not self.verdicts[Verdict.PAUSES] and not self.verdicts[Verdict.LOSES_CLEANUP]


async def verify(
    source: Source, definitions: Mapping[str, Workflow[Any, Any]], *, payload_limit: int
) -> AsyncGenerator[Finding, None]:
    """Rehearse each open workflow with the code of ``definitions``, and yield a finding for it.

    Workflows that end meanwhile are skipped. ``payload_limit`` is in bytes. Raise the exceptions of the source.
    """
    async for entry in source.entries():
        # Without this, a Ctrl-C has no effect while nothing else waits.
        await asyncio.sleep(0)
        definition = definitions.get(entry.workflow_type)
        if definition is None:
            yield Finding(entry, Verdict.NOT_SERVED)
            continue
        try:
            events = await source.history(entry)
        except Unreadable as error:
            yield _finding(entry, Rehearsal(f"the history cannot be read: {error}"))
            continue
        if events is None or _has_ended(events):
            continue
        yield _finding(entry, _rehearse(definition, events, payload_limit))


def _has_ended(events: list[bytes]) -> bool:
    try:
        return bool(events) and event_pb2.Event.FromString(events[-1]).WhichOneof("detail") in FINAL_DETAILS
    except DecodeError:  # The rehearsal reports the damaged event.
        return False


def _rehearse(definition: Workflow[Any, Any], events: list[bytes], payload_limit: int) -> Rehearsal:
    try:
        return rehearse(definition, events, payload_limit=payload_limit, now=time.time())
    except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001 - types and validators are the user's code
        return Rehearsal(f"the replay failed: {type(error).__name__}: {error}")


def _finding(entry: Entry, rehearsal: Rehearsal) -> Finding:
    if rehearsal.problem:
        cancelling = entry.state == workflow_pb2.WORKFLOW_STATE_CANCELLING
        return Finding(entry, Verdict.LOSES_CLEANUP if cancelling else Verdict.PAUSES, rehearsal.problem)
    ending = f"the code {rehearsal.ending}" if rehearsal.ending else ""
    if entry.state == workflow_pb2.WORKFLOW_STATE_PAUSED and entry.reason == event_pb2.STATE_REASON_NON_DETERMINISM:
        return Finding(entry, Verdict.RESUMES, ending, rehearsal.unclaimed)
    if ending:
        return Finding(entry, Verdict.ENDS, ending)
    if rehearsal.unclaimed and rehearsal.inserted:
        starts = f"calls that are marked as inserted: {', '.join(rehearsal.inserted)}"
        return Finding(entry, Verdict.STARTS_INSERTED, starts, rehearsal.unclaimed)
    if rehearsal.unclaimed:
        return Finding(entry, Verdict.KEEPS_WAITING, unclaimed=rehearsal.unclaimed)
    return Finding(entry, Verdict.CONTINUES)
