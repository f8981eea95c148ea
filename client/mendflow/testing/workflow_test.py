"""The way into an environment, with or without asyncio."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mendflow.authoring.workflow import Workflow
from mendflow.errors import DefinitionError
from mendflow.testing.blocking import Environment, LoopThread
from mendflow.testing.environment import AsyncEnvironment

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

__all__ = ["WorkflowTest"]

#: The settings that a test cannot choose, and why.
_OWN: Final = {
    "store": "its store is temporary",
    "grpc_address": "it listens on no port",
    "http_address": "it listens on no port",
}


class WorkflowTest:
    """A test of workflows on the real engine, with a temporary store and a clock that skips time.

    ``with WorkflowTest(order) as env:`` gives an `Environment`, whose engine runs on a thread of its own, and ``async
    with WorkflowTest(order) as env:`` an `AsyncEnvironment` on the test's event loop. ``start_time`` is the time at
    which the test begins; the default is the present. ``settings`` are settings of the server, by name, except its
    store and its addresses.

    Raise `mendflow.errors.DefinitionError` for what is no workflow or for a name that two have, and TypeError for a
    store or an address.
    """

    def __init__(self, *workflows: Workflow[Any, Any], start_time: datetime | None = None, **settings: Any) -> None:
        for each in workflows:
            if not isinstance(each, Workflow):
                msg = f"WorkflowTest takes workflows, not {each!r}; decorate the function with @workflow"
                raise DefinitionError(msg)
        if len({each.name for each in workflows}) < len(workflows):
            msg = "two of the workflows have the same name; give one another name with @workflow(name=...)"
            raise DefinitionError(msg)
        for name, reason in _OWN.items():
            if name in settings:
                msg = f"WorkflowTest takes no {name}: {reason}; leave it out"
                raise TypeError(msg)
        self._workflows = workflows
        self._start_time = start_time
        self._settings = settings
        self._thread: LoopThread | None = None
        self._open: tuple[AsyncEnvironment, tempfile.TemporaryDirectory[str]] | None = None

    if not TYPE_CHECKING:  # A type checker must find a wrong name.

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError. The message says how to enter a test that was not entered."""
            hint = "; the environment has it: `with WorkflowTest(...) as env:`" if hasattr(Environment, name) else ""
            msg = f"WorkflowTest has no {name!r}{hint}"
            raise AttributeError(msg, name=name, obj=self)

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
