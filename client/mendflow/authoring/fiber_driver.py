"""Run the fibers of a workflow's code: one at a time, each until it blocks or ends.

The server's runner and the run by hand are composed of a `FiberDriver`. They
decide what a call does, and which outcome is delivered next. The driver decides
the order in which the fibers run after a delivery: the branches of a gather
begin in their order, and the owner of a gather resumes after its last branch.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

from mendflow.authoring.calls import Call, Gather
from mendflow.authoring.fibers import Fiber, Group, explained, not_durable
from mendflow.authoring.unawaited import Unawaited
from mendflow.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["FiberDriver"]


class FiberDriver:
    """The fibers of one workflow's code.

    ``block`` gets a fiber and the call that it awaits, which is no gather. It
    sets what the fiber is blocked on, or returns the error to raise there.
    ``cancel_call`` gets the key of a call that must end in CancelledError.
    ``ends_at_once`` returns whether the error of a branch, which closes its
    group, ends the whole code; without it no such error does.
    """

    __slots__ = (
        "_block",
        "_cancel_call",
        "_ends_at_once",
        "_made",
        "_open",
        "_root",
        "_runnable",
        "_unawaited",
        "broken",
        "context",
        "current",
        "done",
        "error",
        "value",
    )

    def __init__(
        self,
        code: Coroutine[Any, Any, Any],
        context: contextvars.Context,
        block: Callable[[Fiber, Call[Any]], BaseException | None],
        cancel_call: Callable[[str], None],
        ends_at_once: Callable[[Group, BaseException], bool] | None = None,
    ) -> None:
        #: The context variables of the workflow function. The users of the driver call it in this context.
        self.context = context
        self._block = block
        self._cancel_call = cancel_call
        self._ends_at_once = ends_at_once
        self._root = Fiber(code, "")
        #: The fiber that runs, or that ran last.
        self.current = self._root
        #: The fibers that have not ended.
        self._open = {self._root}
        #: The fibers to run before the next delivery, the last one first.
        self._runnable: list[tuple[Fiber, Any, BaseException | None]] = []
        self._unawaited = Unawaited()
        self._made = self._unawaited.calls  # A shortcut: each call is added and removed here.
        #: An error that the code must not survive. It is raised when the code blocks or ends, whatever the code caught.
        self.broken: BaseException | None = None
        #: Whether the code has ended, and then what it returned or raised.
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None

    def begin(self) -> None:
        """Run the workflow function until each fiber is blocked or the code has ended."""
        self._root.begin(self.context)
        self.resume(self._root, None, None)

    def resume(self, fiber: Fiber, value: Any, error: BaseException | None) -> None:
        """Deliver a value or an error to a blocked fiber. Run until each fiber is blocked or the code has ended."""
        self._run(fiber, value, error)
        # A stack replaces recursion, because gathers may be nested to any depth.
        while self._runnable and not self.done:
            fiber, value, error = self._runnable.pop()
            if fiber.begun or self._may_begin(fiber):
                self._run(fiber, value, error)

    def cancel(self) -> None:
        """Make what the code waits for end in CancelledError."""
        self._cancel(self._root)

    def end(self, value: Any, error: BaseException | None) -> None:
        """End the code here with this result. What has not ended is never resumed."""
        self.done, self.value, self.error = True, value, error

    def close(self) -> None:
        """Drop the code without resuming it.

        If a ``finally`` block of the code awaits a call, `current_run` raises.
        """
        while self._open:
            fiber = self._open.pop()
            if not fiber.done:
                fiber.done = True
                context, fiber.context = self.context if fiber.context is None else fiber.context, None
                try:
                    context.run(fiber.drop)
                except BaseException:  # noqa: BLE001, S112 - a finally block may raise anything, and the code has ended
                    continue
        # The context and the callbacks refer to the owner of this driver. Break the cycles, so that memory is free
        # without the collector.
        self.context = contextvars.Context()
        self._block = self._cancel_call = _closed
        self._ends_at_once = None

    # What the code makes and must await.

    def call_made(self, call: object) -> None:
        """Register a call that the code must await before it ends."""
        self._made[call] = self.current

    def forgotten(self, what: str) -> None:
        """Register something that the code should have awaited and has dropped."""
        self._unawaited.coroutines.append(what)

    # One fiber.

    def _may_begin(self, fiber: Fiber) -> bool:
        """Return whether a branch may begin. It may not once its group is closed."""
        group = fiber.group
        if group is None or not group.is_closed:
            fiber.begin(self.context)
            return True
        fiber.done = True
        self._open.discard(fiber)
        for call in fiber.drop():
            self._made.pop(call, None)
        self._branch_ended(group)
        return False

    def _run(self, fiber: Fiber, value: Any, error: BaseException | None) -> None:
        """Run a fiber until it blocks or ends."""
        code, context = fiber.code, fiber.context
        fiber.blocked = None
        if error is not None:
            self._unawaited.release_kept(fiber)
        while True:
            self.current = fiber
            try:
                if context is not None:
                    awaited = context.run(code.send, value) if error is None else context.run(code.throw, error)
                else:
                    awaited = code.send(value) if error is None else code.throw(error)
            except StopIteration as stop:
                self._fiber_ended(fiber, stop.value, None)
                return
            except BaseException as raised:  # noqa: BLE001 - the gather handles any exception of its branch
                self._fiber_ended(fiber, None, explained(raised))
                return
            if self.broken is not None:
                raise self.broken
            value = None
            error = self._await(fiber, awaited)
            if error is None:
                return

    def _await(self, fiber: Fiber, awaited: object) -> BaseException | None:
        """Block the fiber on what it awaits, or return the error to raise there."""
        if not isinstance(awaited, Call):
            return not_durable(fiber.code, awaited)
        self._made.pop(awaited, None)
        if isinstance(awaited, Gather):
            self._start_gather(fiber, awaited)
            return None
        try:
            return self._block(fiber, awaited)
        except (TypeError, ValueError, PayloadError) as refused:
            return refused

    def _start_gather(self, fiber: Fiber, call: Gather) -> None:
        group = fiber.blocked = Group(fiber, call, fiber.key(call.key or call.name))
        self._open.update(group.fibers)
        if group.fibers:
            self._runnable.extend((child, None, None) for child in reversed(group.begin()))
        else:
            self._runnable.append((fiber, [], None))

    def _fiber_ended(self, fiber: Fiber, value: Any, error: BaseException | None) -> None:
        if self.broken is not None:
            raise self.broken
        fiber.done = True
        fiber.context = None
        self._open.discard(fiber)
        group = fiber.group
        if group is None:
            self.end(value, error if error is not None else self._unawaited.error())
            return
        if error is not None:
            self._unawaited.release_kept(fiber)
        if group.branch_returned(fiber, value, error):
            if error is not None and self._ends_at_once is not None and self._ends_at_once(group, error):
                self.end(None, error)
                return
            for other in group.fibers:
                self._cancel(other)
        self._branch_ended(group)

    def _branch_ended(self, group: Group) -> None:
        """Record that a branch has ended. After the last one, resume the owner of the group."""
        self._runnable.extend((child, None, None) for child in reversed(group.branch_ended()))
        if group.remaining == 0:
            self._runnable.append((group.owner, *group.result()))

    def _cancel(self, fiber: Fiber) -> None:
        """Make the fiber's wait end in CancelledError."""
        waiting = [fiber]
        while waiting:
            each = waiting.pop()
            if each.done or each.blocked is None:
                continue
            each.cancelled = True
            if isinstance(each.blocked, Group):
                each.blocked.cancelled = True
                waiting.extend(reversed(each.blocked.fibers))
            else:
                self._cancel_call(each.blocked)


def _closed(*_: object) -> None:
    """Refuse to run code that `FiberDriver.close` has dropped."""
    msg = "the code of a workflow ran after it was dropped"
    raise AssertionError(msg)
