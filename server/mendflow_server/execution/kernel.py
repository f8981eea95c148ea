"""What an execution needs of the engine that holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable

    from mendflow.v1 import event_pb2
    from mendflow_server.attempts.attempts import Attempts, Order
    from mendflow_server.execution.crash_marker import Note
    from mendflow_server.execution.held import Held
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.runtime.timers import Timers
    from mendflow_server.settings import Settings
    from mendflow_server.store.committer import Committer
    from mendflow_server.store.records import Change, Message
    from mendflow_server.telemetry.observer import Observer


class Kernel(Protocol):
    """The engine, as its executions see it."""

    settings: Settings
    #: A history of so many events is near its limit.
    history_warning: float
    clock: Clock
    #: By the wall clock: durable times.
    timers: Timers
    #: By the monotonic clock: limits.
    limits: Timers
    attempts: Attempts
    committer: Committer
    note: Note
    observer: Observer
    draining: bool
    #: Whether the crash budget suspects anyone.
    suspects: bool

    def act(self, execution: Held, call: Callable[[], None]) -> None:
        """Let something happen to an execution in this turn, then flush it."""

    def fault(self, execution: Held, error: BaseException) -> None:
        """A fault of our own in one workflow: drop it, and take it up again later."""

    def try_again(self, execution: Held) -> None:
        """Load a workflow again that is paused because of its code, and resume it if the code fits now."""

    def go_on(self, execution: Held, orders: list[Order]) -> None:
        """A change is on disk: let what waited for it begin, once all of its batch have been told."""

    def idempotency_key(self, uid: str, step_key: str) -> str:
        """Answer the key under which a step makes its effect."""

    def attempt_context(self, execution: Held, step_key: str, number: int) -> contextvars.Context:
        """Answer the context variables that an attempt's code starts with."""

    def jitter(self) -> float:
        """Answer a random number from 0 up to 1."""

    def holds(self, key: int, step_key: str) -> bool:
        """Whether a suspect must wait for its turn."""

    def quarantined(self, key: int, step_key: str) -> int:
        """How many crashes quarantine it now; 0: none do."""

    def suspect_ended(self, key: int, step_key: str) -> None:
        """A suspect's attempt is closed, or its workflow has ended."""

    def forgive(self, key: int) -> None:
        """An operator resumed the workflow: forget what was held against it."""

    def committed(self, execution: Held, change: Change, events: list[event_pb2.Event], *, fresh: bool) -> None:
        """A change is on disk."""

    def finished(self, execution: Held, final: event_pb2.Event) -> None:
        """The workflow's end is on disk."""

    def taken(self, execution: Held) -> None:
        """A new workflow's id proved taken."""

    def lost(self, execution: Held, *, damaged: bool) -> None:
        """Another driver has the workflow; or the file is ``damaged`` where it lies."""

    def read_inbox(self, execution: Held, then: Callable[[list[Message]], None]) -> None:
        """Read the workflow's inbox, then call back."""
