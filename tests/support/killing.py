"""A server that kills itself: the real server, which sends itself SIGKILL at a boundary that a test names.

Boundaries are counted from 1 in each life of the process:

commit n    the n-th write to the store on which others may depend: before it begins, or after it has returned from
            the disk, when nothing that waited for it has left the process yet
effect n    the n-th real execution of a step: before its code runs, or after it, when its outcome is not stored yet

Each boundary that a life reaches becomes a line of its record. So the record of a life that was not killed shows how
many boundaries there are, and the record of a killed life shows where it died. This is a composition root for tests:
nothing in the shipped server can switch it on.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import importlib
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mendflow import attempt
from mendflow.authoring.step import Step
from mendflow.authoring.workflow import Workflow
from mendflow_server import app
from mendflow_server.runtime.event_loop import run_on_loop
from mendflow_server.runtime.exit_guard import ExitGuard
from mendflow_server.settings import load_settings
from mendflow_server.telemetry.logging import configure_logs
from tests.support.build import Build
from tests.support.faults import build_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Batch, BatchResult, Life, Suspect

#: All that is served. Imported here, so that a process that has imported this module makes cheap servers by forking.
MODULES = tuple(
    importlib.import_module(name) for name in ("tests.support.workflows", "examples.campaign", "examples.order")
)


@dataclass(frozen=True, order=True)
class Point:
    """A place to die."""

    kind: str
    number: int
    moment: str

    def __str__(self) -> str:
        return f"{self.moment} {self.kind} {self.number}"


@dataclass(frozen=True)
class Post:
    """Where a server works: its directory, its port, and the number of its life."""

    directory: Path
    grpc_port: int
    life: int

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.directory / "mendflow.db"

    @property
    def journal(self) -> Path:
        """A line of JSON for each real execution of a step, over all lives."""
        return self.directory / "effects.jsonl"

    @property
    def record(self) -> Path:
        """The boundaries that this life reached, one line of JSON each."""
        return self.directory / f"life-{self.life}.jsonl"

    @property
    def log(self) -> Path:
        """The server's log, over all lives."""
        return self.directory / "server.log"

    def up(self, life: int) -> float | None:
        """Return the wall clock time at which a life's process was up, in seconds, or None if it never was."""
        path = self.directory / f"up-{life}"
        return float(path.read_text(encoding="utf-8")) if path.exists() else None


def append(path: Path, line: dict[str, Any]) -> None:
    """Write a line in one system call, so that it is there whole or not at all however soon the process dies."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)


class Boundaries:
    """Counts boundaries, and kills the process at the fatal one."""

    def __init__(self, post: Post, fatal: Point | None) -> None:
        self._record = post.record
        self._fatal = fatal
        self._counts: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def before(self, kind: str, what: Any) -> int:
        """Reach a boundary, and return its number for `after`."""
        with self._lock:
            self._counts[kind] += 1
            number = self._counts[kind]
        self._reach(Point(kind, number, "before"), what)
        return number

    def after(self, kind: str, number: int, what: Any) -> None:
        """Leave a boundary behind."""
        self._reach(Point(kind, number, "after"), what)

    def _reach(self, point: Point, what: Any) -> None:
        with self._lock:  # A thread's effect must not pass while another thread dies.
            append(self._record, {**asdict(point), "what": what})
            if point == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)


class KillingStore:
    """A store whose writes are boundaries. Beats are not: they depend on the clock."""

    def __init__(self, inner: Store, boundaries: Boundaries) -> None:
        self._inner = inner
        self._boundaries = boundaries

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def commit(self, batch: Batch) -> BatchResult:
        """Commit the batch, between two boundaries."""
        # A new workflow's id may be in use already.
        heads = {change.row.workflow_id: change.row.last_sequence for change in batch.changes if change.guard}
        what = {"heads": heads, "messages": [message.kind.name for message in batch.messages]}
        number = self._boundaries.before("commit", what)
        result = await self._inner.commit(batch)
        self._boundaries.after("commit", number, what)
        return result

    async def begin_life(self, life: Life) -> Life | None:
        """As `commit`."""
        number = self._boundaries.before("commit", "begin_life")
        previous = await self._inner.begin_life(life)
        self._boundaries.after("commit", number, "begin_life")
        return previous

    async def write_suspects(self, suspects: Sequence[Suspect]) -> None:
        """As `commit`."""
        number = self._boundaries.before("commit", "write_suspects")
        await self._inner.write_suspects(suspects)
        self._boundaries.after("commit", number, "write_suspects")


def steps() -> Iterator[Step[..., Any]]:
    """Yield every step that the server serves."""
    for module in MODULES:
        yield from (thing for thing in vars(module).values() if isinstance(thing, Step))


def definitions() -> dict[str, Workflow[Any, Any]]:
    """Return every workflow that the server serves, by name."""
    return {thing.name: thing for module in MODULES for thing in vars(module).values() if isinstance(thing, Workflow)}


def watched_step(function: Callable[..., Any], post: Post, boundaries: Boundaries) -> Callable[..., Any]:
    """Return the step's function with a journal line and a boundary on either side, however it ends."""

    def begin() -> tuple[int, dict[str, Any]]:
        this = attempt()
        effect = {
            "workflow_id": this.workflow_id,
            "step_key": this.step_key,
            "attempt": this.number,
            "idempotency_key": this.idempotency_key,
        }
        number = boundaries.before("effect", effect)
        append(post.journal, effect)
        return number, effect

    @functools.wraps(function)
    async def on_loop(*args: Any, **kwargs: Any) -> Any:
        number, effect = begin()
        try:
            return await function(*args, **kwargs)
        finally:
            boundaries.after("effect", number, effect)

    @functools.wraps(function)
    def on_thread(*args: Any, **kwargs: Any) -> Any:
        number, effect = begin()
        try:
            return function(*args, **kwargs)
        finally:
            boundaries.after("effect", number, effect)

    return on_loop if asyncio.iscoroutinefunction(function) else on_thread


def serve(post: Post, fatal: Point | None, faults: Sequence[str] = (), **overrides: Any) -> None:
    """Serve, with these faults, until a signal stops it or until it reaches the boundary.

    This is the target of a process of its own.
    """
    log = os.open(post.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(post.directory)
    (post.directory / f"up-{post.life}").write_text(str(time.time()), encoding="utf-8")
    values: dict[str, Any] = {
        "store": f"sqlite:///{post.store}",
        "grpc_address": f"127.0.0.1:{post.grpc_port}",
        "http_address": "127.0.0.1:0",
        "log_format": "json",
        "drain_timeout": 2.0,
    }
    settings = load_settings(**(values | overrides))
    configure_logs(settings)
    boundaries = Boundaries(post, fatal)
    build = build_with(faults, Build().with_store(lambda store: KillingStore(store, boundaries)))
    for step in steps():
        # Past the frozen attributes. What is learned from the function's signature was learned before.
        vars(step)["function"] = watched_step(step.function, post, boundaries)
    sys.exit(run_on_loop(app.serve(settings, definitions(), new_app=build.new_app, guard=ExitGuard()), settings))


def warm_up() -> None:
    """Cache what every server would compute again: the shapes of inputs and outputs."""
    for step in steps():
        vars(step).update(is_async=step.is_async, arguments=step.arguments, output_type=step.output_type)
    for definition in definitions().values():
        definition.check()


warm_up()
