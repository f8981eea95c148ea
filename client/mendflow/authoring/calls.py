"""What workflow code may await.

Each is a value that says what is wanted; awaiting it hands it to the run,
which answers with the recorded outcome or makes it happen. A run notes each
call that its code makes, so that a forgotten ``await`` does not stay silent.
Outside a workflow `sleep` and `gather` are those of asyncio.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import random as _random
import uuid as _uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from mendflow.authoring.context import RUN, current_run
from mendflow.authoring.names import checked_key, checked_name
from mendflow.codec import ValueType
from mendflow.errors import NotAwaited, NotDurable, NotInWorkflow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Sequence

__all__ = ["gather", "now", "random", "sleep", "uuid4", "version", "wait_signal"]

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")

#: Longer than any timer anyone means: a hundred years.
LONGEST = timedelta(days=36_525).total_seconds()


class Call(Generic[T]):
    """Something a run can be asked for."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, T]:
        """Hand this to the run and answer its outcome."""
        if current_run(self) is None:
            return self.outside_workflow().__await__()
        return self._inside()

    def _inside(self) -> Generator[Any, Any, T]:
        outcome: T = yield self
        return outcome

    def __bool__(self) -> bool:
        """Refuse: a call that was not awaited yet is neither true nor false."""
        msg = f"{self} was used as a condition before it was awaited; write `await` before it"
        raise NotAwaited(msg)

    def outside_workflow(self) -> Awaitable[T]:
        """Answer what to await instead outside a workflow."""
        msg = f"{self} works only inside a workflow"
        raise NotInWorkflow(msg)


class Sleep(Call[None]):
    """A durable wait of some seconds."""

    __slots__ = ("inserted", "key", "seconds")

    def __init__(self, seconds: float, key: str = "", *, inserted: bool = False) -> None:
        self.seconds = seconds
        self.key = key
        self.inserted = inserted

    def __str__(self) -> str:
        return "sleep()"

    def outside_workflow(self) -> Awaitable[None]:
        """Sleep in the process."""
        return asyncio.sleep(self.seconds)


class SignalWait(Call[T]):
    """A wait for a signal."""

    __slots__ = ("inserted", "key", "name", "timeout", "value_type")

    def __init__(
        self, name: str, value_type: ValueType[T], timeout: float | None, key: str = "", *, inserted: bool = False
    ) -> None:
        self.name = name
        self.value_type = value_type
        self.timeout = timeout
        self.key = key
        self.inserted = inserted

    def __str__(self) -> str:
        return f"wait_signal({self.name!r})"


class Gather(Call[Any]):
    """Branches side by side."""

    __slots__ = ("branches", "key", "return_exceptions")

    def __init__(self, branches: Sequence[Awaitable[Any]], key: str = "", *, return_exceptions: bool) -> None:
        self.branches = branches
        self.return_exceptions = return_exceptions
        self.key = key

    def __str__(self) -> str:
        return "gather()"

    def __await__(self) -> Generator[Any, Any, Any]:
        """Hand this to the run; where that is refused, no branch will ever be awaited."""
        try:
            return super().__await__()
        except NotDurable:
            for branch in self.branches:
                if inspect.iscoroutine(branch):
                    branch.close()
            raise

    def outside_workflow(self) -> Awaitable[Any]:
        """Gather as asyncio does."""
        return asyncio.gather(*self.branches, return_exceptions=self.return_exceptions)


def _seconds(what: str, value: float | timedelta) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not math.isfinite(seconds) or not 0 <= seconds <= LONGEST:
        msg = f"{what} must be from 0 seconds to 100 years, not {value!r}"
        raise ValueError(msg)
    return seconds


def _registered(call: Call[T]) -> Call[T]:
    """Return the call after the run, if there is one, has noted it."""
    run = RUN.get()
    if run is not None and run.driving:
        run.call_made(call)
    return call


def sleep(
    seconds: float | timedelta = 0,
    *,
    minutes: float = 0,
    hours: float = 0,
    days: float = 0,
    key: str | None = None,
    inserted: bool = False,
) -> Awaitable[None]:
    """Wait for the sum of the arguments, durably: across restarts, and holding no slot and no memory.

    ``key`` names the timer in place of ``sleep``; ``inserted`` says that it was
    added before calls that open workflows have made (see `Step.with_options`).

    Raises ValueError for a sum below zero or above a hundred years, `DefinitionError` for a bad key.
    """
    whole = _seconds("sleep()", seconds) if isinstance(seconds, timedelta) else float(seconds)
    total = _seconds("sleep()", whole + minutes * 60 + hours * 3600 + days * 86_400)
    return _registered(Sleep(total, checked_key(key), inserted=inserted))


@overload
def wait_signal(
    name: str, *, timeout: float | timedelta | None = None, key: str | None = None, inserted: bool = False
) -> Awaitable[Any]: ...
@overload
def wait_signal(
    name: str,
    value_type: type[T],
    *,
    timeout: float | timedelta | None = None,
    key: str | None = None,
    inserted: bool = False,
) -> Awaitable[T]: ...
def wait_signal(
    name: str,
    value_type: Any = Any,
    *,
    timeout: float | timedelta | None = None,
    key: str | None = None,
    inserted: bool = False,
) -> Awaitable[Any]:
    """Wait for the next signal of this name and return its data, as ``value_type``.

    Signals are kept until they are taken, in the order in which they came.
    ``timeout`` is in seconds; when it passes first, `SignalTimeout` is raised.
    Data that does not fit ``value_type`` raises `PayloadError`. ``key`` names
    the wait in place of ``signal:`` and the signal's name; ``inserted`` says
    that it was added before calls that open workflows have made (see
    `Step.with_options`).
    """
    limit = None if timeout is None else _seconds("timeout", timeout)
    return _registered(SignalWait(name, ValueType.of(value_type), limit, checked_key(key), inserted=inserted))


@overload
def gather(
    a: Awaitable[T1], b: Awaitable[T2], /, *, return_exceptions: bool = False, key: str | None = None
) -> Awaitable[tuple[T1, T2]]: ...
@overload
def gather(
    a: Awaitable[T1],
    b: Awaitable[T2],
    c: Awaitable[T3],
    /,
    *,
    return_exceptions: bool = False,
    key: str | None = None,
) -> Awaitable[tuple[T1, T2, T3]]: ...
@overload
def gather(*branches: Awaitable[T], return_exceptions: bool = False, key: str | None = None) -> Awaitable[list[T]]: ...
def gather(*branches: Awaitable[Any], return_exceptions: bool = False, key: str | None = None) -> Awaitable[Any]:
    """Run branches side by side and return a list of their results, in the order given.

    When one fails, the others are cancelled; once they are closed, the failure
    that is first in the history is raised. With ``return_exceptions`` all
    finish, and failures stand in the list in place of results. ``key`` names
    the scope of its calls in place of ``gather``.
    """
    return _registered(Gather(branches, checked_key(key), return_exceptions=return_exceptions))


def version(name: str) -> bool:
    """Return whether this workflow runs the code after the change ``name``.

    Decided once per workflow and name, and recorded: True for a workflow that
    has no recorded call still ahead of this line, so that either code may run;
    False for one that has, which stays with the code from before. Outside a
    workflow it is True.

    Raises `DefinitionError` for a bad name.
    """
    checked_name("version", name)
    run = current_run("version()")
    return True if run is None else run.version(name)


def now() -> datetime:
    """Answer the time (UTC), the same one in every replay."""
    run = current_run("now()")
    if run is None:
        return datetime.now(UTC)
    text = run.record_value("now", lambda: json.dumps(datetime.fromtimestamp(run.time, UTC).isoformat()))
    return datetime.fromisoformat(json.loads(text))


def uuid4() -> _uuid.UUID:
    """Answer a random UUID, the same one in every replay."""
    run = current_run("uuid4()")
    if run is None:
        return _uuid.uuid4()
    return _uuid.UUID(json.loads(run.record_value("uuid4", lambda: json.dumps(str(_uuid.uuid4())))))


def random() -> float:
    """Answer a random number from 0 up to 1, the same one in every replay."""
    run = current_run("random()")
    if run is None:
        return _random.random()  # noqa: S311 - not for secrets
    return float(json.loads(run.record_value("random", lambda: json.dumps(_random.random()))))  # noqa: S311 - not for secrets
