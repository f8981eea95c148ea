"""The way into an environment, with or without asyncio."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mendflow.authoring.workflow import Workflow
from mendflow.errors import DefinitionError
from mendflow.testing.blocking import Environment, LoopThread
from mendflow.testing.environment import AsyncEnvironment

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

__all__ = ["WorkflowTest"]


class WorkflowTest:
    """A test of workflows on the real engine, with a temporary store and a clock that skips time.

    ``with WorkflowTest(order) as env:`` gives an `Environment`, whose engine runs on a thread of its own, and ``async
    with WorkflowTest(order) as env:`` an `AsyncEnvironment` on the test's event loop. ``start_time`` is the time at
    which the test begins; the default is the present. ``settings`` are settings of the server, by name.
    """

    def __init__(self, *workflows: Workflow[Any, Any], start_time: datetime | None = None, **settings: Any) -> None:
        for each in workflows:
            if not isinstance(each, Workflow):
                msg = f"WorkflowTest takes workflows, not {each!r}; decorate the function with @workflow"
                raise DefinitionError(msg)
        if len({each.name for each in workflows}) < len(workflows):
            msg = "two of the workflows have the same name; give one another name with @workflow(name=...)"
            raise DefinitionError(msg)
        self._workflows = workflows
        self._start_time = start_time
        self._settings = settings
        self._thread: LoopThread | None = None
        self._open: tuple[AsyncEnvironment, tempfile.TemporaryDirectory[str]] | None = None

    async def __aenter__(self) -> AsyncEnvironment:
        """Start the engine on this event loop."""
        directory = tempfile.TemporaryDirectory(prefix="mendflow-test-")
        try:
            environment = AsyncEnvironment(
                self._workflows, Path(directory.name), start_time=self._start_time, settings=self._settings
            )
            await environment.open()
        except BaseException:
            directory.cleanup()
            raise
        self._open = environment, directory
        return environment

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the engine. Raise AssertionError if a crash point was not reached."""
        opened, self._open = self._open, None
        if opened is not None:
            environment, directory = opened
            try:
                await environment.close(check=kind is None)
            finally:
                directory.cleanup()

    def __enter__(self) -> Environment:
        """Start the engine on a thread of its own."""
        thread = LoopThread()
        try:
            environment = Environment(thread, thread.run(self.__aenter__()))
        except BaseException:
            thread.close()
            raise
        self._thread = thread
        return environment

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the engine and its thread. Raise AssertionError if a crash point was not reached."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.run(self.__aexit__(kind, error, traceback))
            finally:
                thread.close()
