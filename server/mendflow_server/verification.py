"""What a deploy of some code would do to the workflows that are open, found out by rehearsals alone.

A `Source` lists open workflows a page at a time and reads one history at a time, so memory does not grow with their
number. There are two: a store's file, opened for reading only, and a server, asked over gRPC.
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
#: Reasons of a server that may concern a single workflow.
_OF_ONE_WORKFLOW: Final = frozenset({"STORE_UNAVAILABLE", "INTERNAL"})


class Entry(NamedTuple):
    """An open workflow in a list."""

    workflow_id: str
    workflow_type: str
    state: int
    reason: int
    #: The store's key; 0 for a server's.
    key: int = 0


class Unreadable(Exception):
    """One workflow's history cannot be read; the others may be whole."""


class Source(Protocol):
    """Where open workflows and their histories are read."""

    async def count(self) -> int | None:
        """Return how many workflows are open; None when that is not known."""

    def entries(self) -> AsyncGenerator[Entry, None]:
        """Yield each open workflow."""

    async def history(self, entry: Entry) -> list[bytes] | None:
        """Return a workflow's events, None when the workflow is gone. Raise `Unreadable`."""


class Inspector(Protocol):
    """A store that is open for reading only."""

    def count_open(self) -> int:
        """Return how many workflows have not ended."""

    def list_workflows(self, condition: Filter, *, limit: int, after: Cursor | None) -> Page:
        """Return a page of workflows, newest first."""

    def read_history(self, key: int) -> list[bytes]:
        """Return all events of a workflow."""


class StoreSource:
    """A store's file."""

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
    """A server that runs."""

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

    GOES_ON = "goes_on"
    #: The server would pause it, or keep it paused.
    PAUSES = "pauses"
    #: The server would cancel it without clean-up: it is CANCELLING, and the code cannot be replayed.
    LOSES_CLEANUP = "loses_cleanup"
    #: It goes on with calls that are marked as inserted, before the recorded calls that follow.
    STARTS_INSERTED = "starts_inserted"
    #: It goes on, but the code has not made all of the recorded calls.
    KEEPS_WAITING = "keeps_waiting"
    #: It is PAUSED because other code could not be replayed; this code can.
    RESUMES = "resumes"
    #: Its code returns or raises at once.
    ENDS = "ends"
    #: None of the modules has its type.
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
        """Whether the deploy leaves it able to go on."""
        return self.verdict not in (Verdict.PAUSES, Verdict.LOSES_CLEANUP)


@dataclass
class Tally:
    """How many workflows have each verdict."""

    verdicts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    #: Those of types that no module has, by type.
    not_served: dict[str, int] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        """Count a finding."""
        self.verdicts[finding.verdict] += 1
        if finding.verdict is Verdict.NOT_SERVED:
            name = finding.entry.workflow_type
            self.not_served[name] = self.not_served.get(name, 0) + 1

    @property
    def total(self) -> int:
        """How many were counted."""
        return sum(self.verdicts.values())

    @property
    def passes(self) -> bool:
        """Whether no workflow would be paused."""
        return not self.verdicts[Verdict.PAUSES] and not self.verdicts[Verdict.LOSES_CLEANUP]


async def verify(
    source: Source, definitions: Mapping[str, Workflow[Any, Any]], *, payload_limit: int
) -> AsyncGenerator[Finding, None]:
    """Rehearse each open workflow with the code of these definitions, and yield what would become of it.

    Workflows that end while this runs are left out.
    """
    async for entry in source.entries():
        # The one place where a Ctrl-C takes effect when nothing else waits.
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
    except DecodeError:  # A damaged event: the rehearsal reports it.
        return False


def _rehearse(definition: Workflow[Any, Any], events: list[bytes], payload_limit: int) -> Rehearsal:
    try:
        return rehearse(definition, events, payload_limit=payload_limit, now=time.time())
    except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001 - types and validators are the user's code
        return Rehearsal(f"the replay itself failed: {type(error).__name__}: {error}")


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
    return Finding(entry, Verdict.GOES_ON)
