"""The environment of one test, for tests without asyncio: the engine runs on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from mendflow.client.client import NOTHING
from mendflow.testing.handle import stopped

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from datetime import datetime, timedelta

    from mendflow.authoring.step import Step
    from mendflow.authoring.workflow import Workflow
    from mendflow.testing.environment import AsyncEnvironment
    from mendflow.testing.fakes import Fake
    from mendflow.testing.handle import AsyncHandle
    from mendflow.testing.history import WorkflowHistory
    from mendflow.testing.replaying import Replay

__all__ = ["Environment", "Handle", "LoopThread"]

I = TypeVar("I")  # noqa: E741 - the input
R = TypeVar("R")
T = TypeVar("T")


class LoopThread:
    """A thread with an event loop, for callers without one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="mendflow-test-engine", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the thread and return its result. Raise `MendflowError` if the thread has ended."""
        if not self._thread.is_alive():
            work.close()
            raise stopped()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # The caller was interrupted.
            raise

    def close(self) -> None:
        """Cancel what still runs and end the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()


class Handle(Generic[R]):
    """One workflow of a test."""

    def __init__(self, thread: LoopThread, handle: AsyncHandle[R]) -> None:
        self._thread = thread
        self._handle = handle
        self.id = handle.id

    def __repr__(self) -> str:
        return f"<workflow {self.id}>"

    def result(self, timeout: float = 30.0) -> R:
        """Wait for the workflow's end and return its result. Skip the time whenever nothing else happens.

        Raise `mendflow.errors.WorkflowFailed`, `WorkflowCancelled` or `WorkflowTerminated` if it has no result. Raise
        `StillOpen` if it waits for what the test does not send, or after ``timeout`` real seconds. Raise
        AssertionError if a fake has too few outcomes.
        """
        return self._thread.run(self._handle.result(timeout))

    def signal(self, name: str, data: Any = None) -> None:
        """Send a signal.

        Raise `mendflow.errors.InvalidRequest` if the workflow declares other signals only, or if the data does not
        match the declared type.
        """
        self._thread.run(self._handle.signal(name, data))

    def cancel(self, reason: str = "") -> None:
        """Ask the workflow to clean up and end."""
        self._thread.run(self._handle.cancel(reason))

    def resume(self, reason: str = "") -> None:
        """Resume a PAUSED or QUARANTINED workflow."""
        self._thread.run(self._handle.resume(reason))

    def terminate(self, reason: str = "") -> None:
        """End the workflow at once, without clean-up."""
        self._thread.run(self._handle.terminate(reason))

    @property
    def state(self) -> str:
        """The workflow's state, such as "WAITING"."""
        return self._thread.run(self._handle.state())

    @property
    def history(self) -> WorkflowHistory:
        """The events that are committed."""
        return self._thread.run(self._handle.history())

    def replay(self) -> Replay:
        """Replay the history against the workflow's code; see `mendflow.testing.replay`. Raise `ReplayFailed`."""
        return self._thread.run(self._handle.replay())


class Environment:
    """The engine of one test, on a thread of its own. Make it with `WorkflowTest` or the fixture ``mendflow_env``."""

    def __init__(self, thread: LoopThread, environment: AsyncEnvironment) -> None:
        self._thread = thread
        self._environment = environment

    @overload
    def start(
        self,
        workflow: Workflow[None, R],
        input: None = ...,
        *,
        id: str | None = ...,
        labels: Mapping[str, str] | None = ...,
    ) -> Handle[R]: ...
    @overload
    def start(
        self, workflow: Workflow[I, R], input: I, *, id: str | None = ..., labels: Mapping[str, str] | None = ...
    ) -> Handle[R]: ...
    def start(
        self,
        workflow: Workflow[Any, R],
        input: Any = NOTHING,
        *,
        id: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Handle[R]:
        """Start a workflow and return its handle once the start is committed. Time stands still.

        Raise what `mendflow.Client.start` raises, such as `mendflow.errors.PayloadError` for a wrong input. Raise
        TypeError for what is no workflow function, such as a name.
        """
        return Handle(self._thread, self._thread.run(self._environment.start(workflow, input, id=id, labels=labels)))

    @overload
    def run(self, workflow: Workflow[None, R], input: None = ..., *, id: str | None = ...) -> R: ...
    @overload
    def run(self, workflow: Workflow[I, R], input: I, *, id: str | None = ...) -> R: ...
    def run(self, workflow: Workflow[Any, R], input: Any = NOTHING, *, id: str | None = None) -> R:
        """Start a workflow and return its result; see `Handle.result`."""
        return self._thread.run(self._environment.run(workflow, input, id=id))

    def fake(self, step: Step[..., Any] | str, outcome: object) -> Fake:
        """Replace a step's code by ``outcome``, from its next attempt on.

        ``step`` is the step or its name. A callable is called with the step's arguments, an exception is raised, and
        a list has an outcome for each attempt. Any other value is the result. Raise `mendflow.errors.DefinitionError`
        for an unknown name.
        """
        return self._environment.fake(step, outcome)

    def crash_at(self, point: str, *, nth: int = 1, before: bool = False) -> None:
        """Crash the engine when it commits the ``nth`` event at ``point``, and start it again on the same store.

        A point is a kind of event, then the key of a call and the number of an attempt, as far as they matter:
        ``attempt_started:charge:2``, ``timer_fired``. The engine crashes after that commit, before anything follows
        from it, or with ``before`` just before the commit.

        Raise ValueError if the point begins with no kind of event.
        """
        self._environment.crash_at(point, nth=nth, before=before)

    def crash(self) -> None:
        """Crash the engine now, and start it again on the same store."""
        self._thread.run(self._environment.crash())

    @property
    def crashes(self) -> int:
        """How often the engine has crashed."""
        return self._environment.crashes

    @property
    def now(self) -> datetime:
        """The test's time, in UTC."""
        return self._environment.now

    def advance(self, seconds: float | timedelta) -> None:
        """Move the clock, and run all that falls due meanwhile, in order.

        Attempts that run have a moment of real time to end first. The timeouts of those that still run then pass too.
        """
        self._thread.run(self._environment.advance(seconds))

    def settle(self, timeout: float = 10.0) -> None:
        """Wait until nothing more happens without more time or another act of the test.

        Raise `StillOpen` after ``timeout`` real seconds, if the code of a step still runs.
        """
        self._thread.run(self._environment.settle(timeout))
