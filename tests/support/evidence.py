"""The outside view of a server: its store's file, the steps' own journal, replies and watched events.

`tests.support.promises` judges by this alone. Nothing here uses what the server says about itself, except its health
answers, which are evidence like any other.
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import json
import shutil
import sqlite3
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mendflow.v1 import event_pb2
from tests.support.files import whole_lines
from tests.support.servers import STORES, no_dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

History = list[event_pb2.Event]


@dataclass(frozen=True)
class Effect:
    """A real execution of a step, which is one line of the journal."""

    workflow_id: str
    step_key: str
    attempt: int
    idempotency_key: str


@dataclass(frozen=True)
class Reply:
    """A reply to a client: started (the uid), signalled, cancelled or refused (the request id), result (the workflow).

    Operators get the replies resumed and terminated.
    """

    kind: str
    workflow_id: str
    detail: Any


@dataclass
class Watched:
    """What one watcher saw over all its connections. ``ended`` means that the server ended the stream."""

    workflow_id: str
    kinds: tuple[int, ...] = ()
    after_sequence: int = 0
    events: list[event_pb2.Event] = field(default_factory=list)
    ended: bool = False


@dataclass(frozen=True)
class Row:
    """A workflow's row in the store."""

    uid: str
    state: int
    generation: int
    last_sequence: int
    reason: int = 0
    #: When it wakes, in seconds, or None if it does not wake by the clock.
    wake: float | None = None


@dataclass(frozen=True)
class Stored:
    """The contents of a store, and the damage to its file."""

    histories: dict[str, History] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    damage: tuple[str, ...] = ()
    #: The inbox of each workflow: the kind and the request id of each message.
    inbox: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    #: The replica ids of the lives that have begun, in order.
    lives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Death:
    """A SIGKILL: what was stored at that time, and what had left the process.

    Where other replicas continue, ``stored`` was read after the rest was collected.
    """

    stored: Stored
    effects: list[Effect] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    #: For a death at the edge of a commit: each workflow's last sequence in that commit, and whether it had returned.
    heads: Mapping[str, int] = field(default_factory=dict)
    committed: bool = False
    #: The wall clock time of the death in seconds, or None if no test recorded it.
    time: float | None = None
    #: The wall clock time, in seconds, at which the next life's process was up: it existed and had imported what it
    #: serves, but no code of the server had run. None if there was no next life.
    up: float | None = None


@dataclass(frozen=True)
class Look:
    """A look at a server in which workflows wait, and at its store."""

    time: float
    stored: Stored
    #: How many attempts may run at the same time.
    slots: int
    #: How many workflows are in memory, or None if they have not had the time to leave it.
    workflows_in_memory: int | None = None
    #: A workflow that wakes within this many seconds may be in memory.
    soon: float = 0.0


@dataclass(frozen=True)
class Answer:
    """A health answer, with the times of the request and the answer."""

    asked: float
    received: float
    serving: bool
    #: None if this protocol reports no reasons.
    reasons: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Trouble:
    """A time in which work did not move. ``limit`` seconds after its begin, a server must not say SERVING."""

    what: str
    begin: float
    end: float
    limit: float


@dataclass(frozen=True)
class Health:
    """The health answers of a server from the first SERVING on, and its troubles."""

    answers: list[Answer]
    troubles: list[Trouble]
    #: How many seconds the server may take to notice a trouble, and to notice that it is over.
    notices: float
    recovers: float


@dataclass(frozen=True)
class Evidence:
    """Everything that remains at the end."""

    stored: Stored
    effects: list[Effect] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    health: list[Health] = field(default_factory=list)
    #: Whether every workflow has had the time to end.
    over: bool = True
    #: Seconds added to each time limit.
    allowance: float = 0.5
    #: The number of seconds between two moments in which something on the machine waited for a processor or the disk.
    stalled: Callable[[float, float], float] = lambda _begin, _end: 0.0


# --- reading --------------------------------------------------------------------------------------


def read_store(path: Path, known: dict[bytes, event_pb2.Event] | None = None) -> Stored:
    """Return the contents of a SQLite file at one moment, or nothing if no server has begun in it.

    ``known`` holds the events of many readings of one store, so that memory holds each event once.
    """
    if not path.exists() and STORES["dump"] is not no_dump:
        with tempfile.TemporaryDirectory() as folder:
            STORES["dump"](path.parent, Path(folder) / path.name)
            return read_store(Path(folder) / path.name, known)
    known = {} if known is None else known
    histories: dict[str, History] = collections.defaultdict(list)
    inbox: dict[str, list[tuple[int, str]]] = collections.defaultdict(list)
    with contextlib.closing(sqlite3.connect(path)) as database:
        if not database.execute("select 1 from sqlite_master where name = 'events'").fetchone():
            return Stored()
        database.execute("begin")  # All queries read the same snapshot.
        damage = [text for (text,) in database.execute("pragma integrity_check") if text != "ok"]
        query = "select workflow_id, sequence, bytes from workflows join events using (key) order by key, sequence"
        for workflow_id, sequence, content in database.execute(query):
            event = known.get(content)
            if event is None:
                event = known[content] = event_pb2.Event.FromString(content)
            histories[workflow_id].append(event)
            if event.sequence != sequence:
                damage.append(f"{workflow_id}: event {event.sequence} is stored as {sequence}")
        (orphans,) = database.execute("select count(*) from events where key not in (select key from workflows)")
        if orphans[0]:
            damage.append(f"{orphans[0]} events without a workflow")
        query = "select workflow_id, kind, request_id from workflows join inbox using (key) order by id"
        for workflow_id, kind, request_id in database.execute(query):
            inbox[workflow_id].append((kind, request_id))
        query = "select workflow_id, uid, state, generation, last_sequence, reason, wake_time / 1e6 from workflows"
        rows = {workflow_id: Row(*rest) for workflow_id, *rest in database.execute(query)}
        lives = tuple(name for (name,) in database.execute("select replica_id from replicas order by id"))
    return Stored(dict(histories), rows, tuple(damage), dict(inbox), lives)


def copy_store(store: Path, to: Path) -> Path:
    """Copy the file of a killed server before the next server changes it, and return the copy's path."""
    to.mkdir()
    STORES["dump"](store.parent, to / store.name)
    for suffix in ("", "-wal"):
        path = Path(f"{store}{suffix}")
        if path.exists():
            shutil.copy(path, to)
    return to / store.name


def read_effects(path: Path) -> list[Effect]:
    """Return the executions in the steps' journal, or nothing if no step has run."""
    return [Effect(**json.loads(line)) for line in whole_lines(path)]


class Pressure:
    """How long the machine makes processes wait, as its kernel counts it. Zero where the kernel does not count."""

    def __init__(self) -> None:
        self._seen = [(time.time(), _stalled())]

    def look(self) -> None:
        """Read the count. The increase between two reads is spread evenly over the time between them."""
        self._seen.append((time.time(), _stalled()))

    def between(self, begin: float, end: float) -> float:
        """Return how many seconds something waited between two moments of the wall clock."""
        return min(max(0.0, self._until(end) - self._until(begin)), max(0.0, end - begin))

    def _until(self, moment: float) -> float:
        index = bisect.bisect(self._seen, (moment, 0.0))
        if index in {0, len(self._seen)}:
            return self._seen[min(index, len(self._seen) - 1)][1]
        (before, least), (after, most) = self._seen[index - 1], self._seen[index]
        return least + (most - least) * (moment - before) / (after - before)


def _stalled() -> float:
    """Return the seconds since boot in which something waited for a processor or the disk."""
    total = 0.0
    for path in (Path("/proc/pressure/cpu"), Path("/proc/pressure/io")):
        with contextlib.suppress(OSError):
            total += int(path.read_text("ascii").splitlines()[0].rpartition("total=")[2]) / 1e6
    return total


def seconds_of(event: event_pb2.Event) -> float:
    """Return the time of an event in seconds."""
    return event.time.ToMicroseconds() / 1e6


def attempts(history: Iterable[event_pb2.Event]) -> dict[tuple[str, int], event_pb2.AttemptStarted]:
    """Return every attempt of a history by step key and number."""
    begun = [event.attempt_started for event in history if event.HasField("attempt_started")]
    return {(started.step_key, started.attempt): started for started in begun}


def open_attempts(history: Iterable[event_pb2.Event]) -> list[event_pb2.AttemptStarted]:
    """Return the attempts of a history that have no end."""
    history = list(history)
    begun = attempts(history)
    for event in history:
        for ended in (event.attempt_succeeded, event.attempt_failed):
            begun.pop((ended.step_key, ended.attempt), None)
    return list(begun.values())
