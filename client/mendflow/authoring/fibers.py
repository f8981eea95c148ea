"""The concurrent parts of a workflow's code, and the errors for awaiting what cannot be replayed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mendflow.authoring.calls import Call, Gather
from mendflow.errors import NotDurable

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Coroutine, Generator, Iterator


class Fiber:
    """One concurrent part of a workflow's code: the workflow function or a branch of a gather."""

    __slots__ = (
        "begun",
        "blocked",
        "branch",
        "cancelled",
        "code",
        "context",
        "counters",
        "done",
        "group",
        "index",
        "scope",
    )

    def __init__(self, code: Coroutine[Any, Any, Any] | Generator[Any, Any, Any], scope: str) -> None:
        self.code = code
        #: The prefix of its calls' keys.
        self.scope = scope
        self.counters: dict[str, int] = {}
        #: What it waits for: the key of a call, or a group.
        self.blocked: str | Group | None = None
        #: Whether its wait ends in CancelledError, whatever the outcome is.
        self.cancelled = False
        self.done = False
        #: Whether it has begun. A branch begins when the branches before it have blocked or ended.
        self.begun = False
        #: The context variables of a branch that has begun; None if they are those of the workflow function.
        self.context: contextvars.Context | None = None
        #: The awaitable of a branch; None for the workflow function.
        self.branch: Awaitable[Any] | None = None
        #: The group that waits for it; None for the workflow function.
        self.group: Group | None = None
        self.index = 0

    @classmethod
    def of_branch(cls, branch: Awaitable[Any], scope: str, group: Group, index: int) -> Fiber:
        """Return the fiber of a gather's branch."""
        fiber = cls(branch if asyncio.iscoroutine(branch) else wait_for(branch), scope)
        fiber.branch, fiber.group, fiber.index = branch, group, index
        return fiber

    def drop(self) -> list[Call[Any]]:
        """Close the code. Return the calls of a branch that never began, which nothing will await."""
        self.code.close()
        return [] if self.begun else list(_released(self.branch))

    def begin(self, root: contextvars.Context) -> None:
        """Mark that it begins. A branch gets a copy of its owner's context variables, as a task of asyncio does.

        ``root`` has those of the workflow function. A branch that is one call has its owner's, because it runs no code
        that could set any.
        """
        self.begun = True
        if self.group is not None:
            owner = self.group.owner.context
            self.context = owner if isinstance(self.branch, Call) else (root if owner is None else owner).copy()

    def key(self, name: str) -> str:
        """Return the next key for this name."""
        count = self.counters[name] = self.counters.get(name, 0) + 1
        return f"{self.scope}{name}" if count == 1 else f"{self.scope}{name}#{count}"


class Group:
    """The branches of one `gather` or `first_of`, and the rule by which they begin and end.

    A failed branch, and the first branch of `first_of` that ends, closes the group: the others are cancelled, and those
    that have not begun are dropped. The owner resumes after the last branch has ended.
    """

    __slots__ = ("_call", "_failure", "_first", "_results", "_waiting", "cancelled", "fibers", "owner", "remaining")

    def __init__(self, owner: Fiber, call: Gather, scope: str) -> None:
        self._call = call
        self.owner = owner
        self.fibers = [
            Fiber.of_branch(branch, f"{scope}[{index}]/", self, index) for index, branch in enumerate(call.branches)
        ]
        self.remaining = len(self.fibers)
        #: Whether its branches were cancelled.
        self.cancelled = False
        self._results: list[Any] = [None] * self.remaining
        self._failure: BaseException | None = None
        #: The index and the value of the branch that ended first; only of a `first_of`.
        self._first: tuple[int, Any] | None = None
        #: The branches that may not begin yet, the next one last.
        self._waiting: list[Fiber] = []

    def begin(self) -> list[Fiber]:
        """Return the branches that begin at once, in their order."""
        limit = self._call.limit or len(self.fibers)
        self._waiting = self.fibers[limit:][::-1]
        return self.fibers[:limit]

    @property
    def is_closed(self) -> bool:
        """Whether no branch may begin any more."""
        return self.cancelled or self._failure is not None

    def branch_returned(self, fiber: Fiber, value: Any, error: BaseException | None) -> bool:
        """Keep what a branch came to; return whether the other branches must be cancelled."""
        closes = False
        if self._call.is_first:
            if self._first is None and self._failure is None:
                self._first, self._failure = (fiber.index, value), error
                closes = True
        elif error is None or self._call.return_exceptions:
            self._results[fiber.index] = value if error is None else error
        elif self._failure is None:
            self._failure = error
            closes = True
        if closes and not self.cancelled:
            self.cancelled = True
            return True
        return False

    def branch_ended(self) -> list[Fiber]:
        """Count a branch that has ended or was dropped; return those to run now: the next one, or all to drop."""
        self.remaining -= 1
        if self.is_closed:
            following, self._waiting = self._waiting[::-1], []
            return following
        return [self._waiting.pop()] if self._waiting else []

    def result(self) -> tuple[Any, BaseException | None]:
        """Return what the owner gets: a value, or an error to raise."""
        if self.owner.cancelled:
            self.owner.cancelled = False
            return None, asyncio.CancelledError()
        if self._failure is not None:
            return None, self._failure
        return (self._first if self._call.is_first else self._results), None


async def wait_for(branch: Any) -> Any:
    """Await a branch of a gather that is not a coroutine."""
    return await branch


def _released(branch: Awaitable[Any] | None) -> Iterator[Call[Any]]:
    """Close the coroutines in a branch that never began, and yield its calls."""
    waiting: list[Any] = [branch]
    while waiting:
        each = waiting.pop()
        if asyncio.iscoroutine(each):
            each.close()
        elif isinstance(each, Call):
            yield each
            if isinstance(each, Gather):
                waiting.extend(each.branches)


def explained(error: BaseException) -> BaseException:
    """Replace asyncio's error about a timeout or a task group outside a task by one that says what to use instead."""
    if type(error) is not RuntimeError:
        return error
    if str(error).endswith("cannot determine the parent task"):
        refused = NotDurable("asyncio.TaskGroup cannot be replayed. Run branches concurrently with mendflow.gather().")
        refused.__cause__ = error
        return refused
    if str(error) == "Timeout should be used inside a task":
        refused = NotDurable(
            "asyncio.timeout() cannot be replayed. Bound a step with @step(timeout=...), and a wait with "
            "wait_signal(timeout=...)."
        )
        refused.__cause__ = error
        return refused
    return error


def not_durable(code: Any, awaited: object) -> NotDurable:
    """Return the error for code that awaits something that cannot be replayed. The message names it."""
    names = []
    inner = code
    while inner is not None:
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None)
        if frame is not None:
            names.append(f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_name}")
        inner = getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None)
    what = names[-1] if len(names) > 1 else f"a {type(awaited).__module__}.{type(awaited).__qualname__}"
    msg = (
        f"the workflow awaited {what}, which cannot be replayed. In workflow code, await only steps, mendflow.sleep(), "
        "mendflow.gather() and mendflow.wait_signal(), and move all I/O into a @step."
    )
    return NotDurable(msg)
