"""The calls that workflow code can await.

A call is a value that describes a request. Awaiting the call passes it to the
workflow's runner, which returns the recorded outcome or produces a new one. The
runner keeps track of each call, so that it can report a forgotten ``await``.
Outside a workflow, `sleep` and `gather` behave as in asyncio.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import random as _random
import uuid as _uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from mendflow.authoring.context import RUN, current_run
from mendflow.authoring.names import checked_key, checked_name, checked_signal
from mendflow.codec import ValueType
from mendflow.errors import NotAwaited, NotDurable, NotInWorkflow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Sequence

__all__ = ["first_of", "gather", "now", "random", "sleep", "uuid4", "version", "wait_signal"]

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")

#: The longest timer: 100 years, in seconds.
LONGEST = timedelta(days=36_525).total_seconds()


class Call(Generic[T]):
    """A request to the workflow's runner."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, T]:
        """Pass this call to the runner and return the outcome."""
        if current_run(self) is None:
            return self.outside_workflow().__await__()
        return self._inside()

    def _inside(self) -> Generator[Any, Any, T]:
        outcome: T = yield self
        return outcome

    def __bool__(self) -> bool:
        """Raise `NotAwaited`, because a call has no truth value before it is awaited."""
        msg = f"{self} was used as a condition before it was awaited; write `await` before it"
        raise NotAwaited(msg)

    def outside_workflow(self) -> Awaitable[T]:
        """Return the awaitable to use outside a workflow. Raise `NotInWorkflow` if there is none."""
        msg = f"{self} works only inside a workflow"
        raise NotInWorkflow(msg)


class Sleep(Call[None]):
    """A durable wait of ``seconds``."""

    __slots__ = ("inserted", "key", "seconds")

    def __init__(self, seconds: float, key: str = "", *, inserted: bool = False) -> None:
        self.seconds = seconds
        self.key = key
        self.inserted = inserted

    def __str__(self) -> str:
        return "sleep()"

    def outside_workflow(self) -> Awaitable[None]:
        """Return a sleep of asyncio, which does not survive the process."""
        return asyncio.sleep(self.seconds)


class SignalWait(Call[T]):
    """A wait for a signal, with an optional timeout in seconds."""

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
    """Branches that run concurrently: at most ``limit`` of them, and with ``is_first`` until one of them ends."""

    __slots__ = ("branches", "is_first", "key", "limit", "return_exceptions")

    def __init__(
        self,
        branches: Sequence[Awaitable[Any]],
        key: str = "",
        *,
        return_exceptions: bool = False,
        limit: int | None = None,
        is_first: bool = False,
    ) -> None:
        self.branches = branches
        self.return_exceptions = return_exceptions
        self.key = key
        self.limit = limit
        self.is_first = is_first

    @property
    def name(self) -> str:
        """The function that made it, and its default key."""
        return "first_of" if self.is_first else "gather"

    def __str__(self) -> str:
        return f"{self.name}()"

    def __await__(self) -> Generator[Any, Any, Any]:
        """Pass this call to the runner. Close the branches if that raises `NotDurable`, since none will be awaited."""
        try:
            return super().__await__()
        except NotDurable:
            for branch in self.branches:
                if inspect.iscoroutine(branch):
                    branch.close()
            raise

    def outside_workflow(self) -> Awaitable[Any]:
        """Return what does the same with tasks of asyncio."""
        if self.is_first:
            return _first_of_tasks(self.branches)
        branches = self.branches
        if self.limit is not None:
            slots = asyncio.Semaphore(self.limit)
            branches = [_within(slots, branch) for branch in branches]
        return asyncio.gather(*branches, return_exceptions=self.return_exceptions)


async def _within(slots: asyncio.Semaphore, branch: Awaitable[T]) -> T:
    async with slots:
        return await branch


async def _first_of_tasks(branches: Sequence[Awaitable[Any]]) -> tuple[int, Any]:
    tasks = [asyncio.ensure_future(branch) for branch in branches]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        index = next(index for index, task in enumerate(tasks) if task.done())
        return index, tasks[index].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _seconds(what: str, value: float | timedelta) -> float:
    given: object = value
    if isinstance(given, bool) or not isinstance(given, int | float | timedelta):
        msg = f"{what} must be a number of seconds or a timedelta, not {value!r}"
        raise TypeError(msg)
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    # NaN, and a number that is too large for a float, are not in this range.
    if not 0 <= seconds <= LONGEST:
        msg = f"{what} must be from 0 seconds to 100 years, not {value!r}"
        raise ValueError(msg)
    return float(seconds)


def _checked_branches(name: str, branches: Sequence[Awaitable[Any]]) -> Sequence[Awaitable[Any]]:
    """Return the branches. Raise TypeError, and close the coroutines, if one of them cannot be awaited."""
    for number, branch in enumerate(branches, 1):
        if not inspect.isawaitable(branch):
            for each in branches:
                if inspect.iscoroutine(each):
                    each.close()
            msg = f"{name}() takes calls and coroutines, but argument {number} is {branch!r}; pass a list as *calls"
            raise TypeError(msg)
    return branches


def _registered(call: Call[T]) -> Call[T]:
    """Register a call with the current runner, if there is one, and return the call."""
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
    """Wait for the sum of the arguments.

    The wait survives restarts, and holds no slot and no memory.

    ``key`` names the timer and replaces the default key ``sleep``. ``inserted``
    marks a call that you added before calls that open workflows have already
    made (see `Step.with_options`).

    Raise ValueError if the sum is below 0 or above 100 years, and `DefinitionError` if the key is malformed.
    """
    for each in (seconds, minutes, hours, days):
        given: object = each
        if given is None or isinstance(given, str | bool):
            _seconds("sleep()", each)
    try:
        whole = _seconds("sleep()", seconds) if isinstance(seconds, timedelta) else float(seconds)
        total = whole + minutes * 60 + hours * 3600 + days * 86_400
    except OverflowError:
        total = math.inf
    total = _seconds("sleep()", total)
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
@overload
def wait_signal(
    name: str,
    value_type: Any,
    *,
    timeout: float | timedelta | None = None,
    key: str | None = None,
    inserted: bool = False,
) -> Awaitable[Any]: ...
def wait_signal(
    name: str,
    value_type: Any = Any,
    *,
    timeout: float | timedelta | None = None,
    key: str | None = None,
    inserted: bool = False,
) -> Awaitable[Any]:
    """Wait for the next signal with this name and return its data as ``value_type``.

    The server keeps signals in arrival order until the workflow takes them.
    ``timeout`` is in seconds; None means no timeout. ``key`` names the wait and
    replaces the default key, which is ``signal:`` and the signal's name.
    ``inserted`` marks a call that you added before calls that open workflows
    have already made (see `Step.with_options`).

    Raise `SignalTimeout` if no signal arrives before the timeout, `PayloadError` if the data does not match
    ``value_type``, and `DefinitionError` if no signal can have the name.
    """
    limit = None if timeout is None else _seconds("timeout", timeout)
    return _registered(
        SignalWait(checked_signal(name), ValueType.of(value_type), limit, checked_key(key), inserted=inserted)
    )


@overload
def gather(
    a: Awaitable[T1],
    b: Awaitable[T2],
    /,
    *,
    return_exceptions: Literal[False] = False,
    limit: int | None = None,
    key: str | None = None,
) -> Awaitable[tuple[T1, T2]]: ...
@overload
def gather(
    a: Awaitable[T1],
    b: Awaitable[T2],
    c: Awaitable[T3],
    /,
    *,
    return_exceptions: Literal[False] = False,
    limit: int | None = None,
    key: str | None = None,
) -> Awaitable[tuple[T1, T2, T3]]: ...
@overload
def gather(
    a: Awaitable[T1],
    b: Awaitable[T2],
    c: Awaitable[T3],
    d: Awaitable[T4],
    /,
    *,
    return_exceptions: Literal[False] = False,
    limit: int | None = None,
    key: str | None = None,
) -> Awaitable[tuple[T1, T2, T3, T4]]: ...
@overload
def gather(
    a: Awaitable[T1],
    b: Awaitable[T2],
    c: Awaitable[T3],
    d: Awaitable[T4],
    e: Awaitable[T5],
    /,
    *,
    return_exceptions: Literal[False] = False,
    limit: int | None = None,
    key: str | None = None,
) -> Awaitable[tuple[T1, T2, T3, T4, T5]]: ...
@overload
def gather(  # type: ignore[overload-overlap]  # the first match counts
    a: Awaitable[T1],
    b: Awaitable[T2],
    /,
    *,
    return_exceptions: Literal[True],
    limit: int | None = None,
    key: str | None = None,
) -> Awaitable[tuple[T1 | BaseException, T2 | BaseException]]: ...
@overload
def gather(  # type: ignore[overload-overlap]  # the first match counts
    a: Awaitable[T1],
    b: Awaitable[T2],
    c: Awaitable[T3],
    /,
    *,
    return_exceptions: Literal[True],
    limit: int | None = None,
    key: str | None = None,
) -> Awaitable[tuple[T1 | BaseException, T2 | BaseException, T3 | BaseException]]: ...
@overload
def gather(  # type: ignore[overload-overlap]  # the first match counts
    a: Awaitable[T1],
    b: Awaitable[T2],
    c: Awaitable[T3],
    d: Awaitable[T4],
    /,
    *,
    return_exceptions: Literal[True],
    limit: int | None = None,
    key: str | None = None,
) -> Awaitable[tuple[T1 | BaseException, T2 | BaseException, T3 | BaseException, T4 | BaseException]]: ...
@overload
def gather(  # type: ignore[overload-overlap]  # the first match counts
    a: Awaitable[T1],
    b: Awaitable[T2],
    c: Awaitable[T3],
    d: Awaitable[T4],
    e: Awaitable[T5],
    /,
    *,
    return_exceptions: Literal[True],
    limit: int | None = None,
    key: str | None = None,
) -> Awaitable[
    tuple[T1 | BaseException, T2 | BaseException, T3 | BaseException, T4 | BaseException, T5 | BaseException]
]: ...
@overload
def gather(
    *branches: Awaitable[T], return_exceptions: Literal[False] = False, limit: int | None = None, key: str | None = None
) -> Awaitable[list[T]]: ...
@overload
def gather(
    *branches: Awaitable[T], return_exceptions: Literal[True], limit: int | None = None, key: str | None = None
) -> Awaitable[list[T | BaseException]]: ...
@overload
def gather(
    *branches: Awaitable[Any], return_exceptions: bool = False, limit: int | None = None, key: str | None = None
) -> Awaitable[list[Any]]: ...
def gather(
    *branches: Awaitable[Any], return_exceptions: bool = False, limit: int | None = None, key: str | None = None
) -> Awaitable[Any]:
    """Run branches concurrently and return a list of their results, in argument order.

    When a branch fails, gather cancels the other branches, waits until they are
    closed, and raises the failure that comes first in the history. With
    ``return_exceptions`` every branch runs to its end, and the list has the
    exceptions of failed branches in place of results. At most ``limit``
    branches run at once; the next one begins when one ends. ``key`` names the
    scope of the branches' calls and replaces the default key ``gather``.

    Raise ValueError if the limit is below 1, and TypeError if a branch cannot be awaited.
    """
    given: object = limit
    if limit is not None and (isinstance(given, bool) or not isinstance(given, int) or limit < 1):
        msg = f"gather(limit={limit!r}) lets no branch run; use a whole number from 1 on, or None"
        raise ValueError(msg)
    return _registered(
        Gather(
            _checked_branches("gather", branches), checked_key(key), return_exceptions=return_exceptions, limit=limit
        )
    )


@overload
def first_of(a: Awaitable[T1], b: Awaitable[T2], /, *, key: str | None = None) -> Awaitable[tuple[int, T1 | T2]]: ...
@overload
def first_of(
    a: Awaitable[T1], b: Awaitable[T2], c: Awaitable[T3], /, *, key: str | None = None
) -> Awaitable[tuple[int, T1 | T2 | T3]]: ...
@overload
def first_of(*branches: Awaitable[T], key: str | None = None) -> Awaitable[tuple[int, T]]: ...
def first_of(*branches: Awaitable[Any], key: str | None = None) -> Awaitable[tuple[int, Any]]:
    """Wait for the first of several calls, and return its index and its result. Cancel the others.

    A branch is a signal wait, a timer, a step or a coroutine that awaits them. An attempt of a step that runs is
    cancelled, and the call returns once the branches are closed. If the first branch to end has failed, its error is
    raised. ``key`` names the scope of the branches' calls and replaces the default key ``first_of``.

    Raise ValueError without a branch, and TypeError if a branch cannot be awaited.
    """
    if not branches:
        msg = "first_of() needs at least one call to wait for"
        raise ValueError(msg)
    return _registered(Gather(_checked_branches("first_of", branches), checked_key(key), is_first=True))


def version(name: str) -> bool:
    """Return True if this workflow runs the new code of the change ``name``.

    The server decides once for each workflow and name, and records the decision.
    It returns False for a workflow that has recorded calls after this line,
    which keeps the old code, and True for any other workflow. Outside a workflow
    the result is True.

    Raise `DefinitionError` if the name is malformed.
    """
    checked_name("version", name)
    run = current_run("version()")
    return True if run is None else run.version(name)


def now() -> datetime:
    """Return the current time in UTC. Every replay returns the same time."""
    run = current_run("now()")
    if run is None:
        return datetime.now(UTC)
    text = run.record_value("now", lambda: json.dumps(datetime.fromtimestamp(run.time, UTC).isoformat()))
    return datetime.fromisoformat(json.loads(text))


def uuid4() -> _uuid.UUID:
    """Return a random UUID. Every replay returns the same UUID."""
    run = current_run("uuid4()")
    if run is None:
        return _uuid.uuid4()
    return _uuid.UUID(json.loads(run.record_value("uuid4", lambda: json.dumps(str(_uuid.uuid4())))))


def random() -> float:
    """Return a random number from 0 (included) to 1 (excluded). Every replay returns the same number."""
    run = current_run("random()")
    if run is None:
        return _random.random()  # noqa: S311 - not for secrets
    return float(json.loads(run.record_value("random", lambda: json.dumps(_random.random()))))  # noqa: S311 - not for secrets
