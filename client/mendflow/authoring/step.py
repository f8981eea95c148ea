"""Steps: the functions whose results are checkpointed."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from mendflow.authoring.calls import LONGEST, Call
from mendflow.authoring.context import BY_HAND, current_run
from mendflow.authoring.names import checked_key, checked_name
from mendflow.authoring.retry import RetryPolicy
from mendflow.codec import Arguments, ValueType, return_type
from mendflow.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

__all__ = ["Step", "step"]

P = ParamSpec("P")
R = TypeVar("R")


class Default:
    """Stands for: as the server's settings say."""

    def __repr__(self) -> str:
        return "server default"


DEFAULT = Default()


def seconds_of(what: str, value: float | timedelta | None) -> float | None:
    """Answer a timeout in seconds; None means none."""
    if value is None:
        return None
    seconds = value if isinstance(value, int | float) else value.total_seconds()
    if not math.isfinite(seconds) or not 0 < seconds <= LONGEST:
        msg = f"{what} must be a number of seconds above 0, at most 100 years, or None for none, not {value!r}"
        raise DefinitionError(msg)
    return float(seconds)


class StepCall(Call[R]):
    """A step with its arguments."""

    __slots__ = ("args", "kwargs", "step")

    def __init__(self, step: Step[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.step = step
        self.args = args
        self.kwargs = kwargs

    def __str__(self) -> str:
        return f"step {self.step.name}()"

    def outside_workflow(self) -> Awaitable[R]:
        """Run the function."""

        async def plain() -> R:
            by_hand = BY_HAND.set(False)
            try:
                result: Any = self.step.function(*self.args, **self.kwargs)
                answer: R = await result if inspect.isawaitable(result) else result
                return answer
            finally:
                BY_HAND.reset(by_hand)

        return plain()


@dataclasses.dataclass(frozen=True)
class Step(Generic[P, R]):
    """A decorated step. Call it inside a workflow and await it; elsewhere it is just the function.

    ``timeout`` is the longest an attempt may take, in seconds; None: no limit;
    unset: the server's ``attempt_timeout``. ``key`` names the call inside its
    scope in place of the step's name. ``inserted`` marks a call that was added
    before calls which open workflows have already made.
    """

    function: Callable[P, Any]
    name: str
    retry: RetryPolicy
    timeout: float | Default | None
    overlap: bool
    key: str
    inserted: bool

    def __post_init__(self) -> None:
        # What functools.update_wrapper does, past the frozen attributes.
        for attribute in functools.WRAPPER_ASSIGNMENTS:
            self.__dict__[attribute] = getattr(self.function, attribute, None)
        self.__dict__["__wrapped__"] = self.function
        retry: object = self.retry
        if not isinstance(retry, RetryPolicy):
            msg = f"step {self.name}: retry must be a RetryPolicy, not {retry!r}"
            raise DefinitionError(msg)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        """Inside a workflow: something to await. Elsewhere: the function's own answer."""
        call: StepCall[R] = StepCall(self, args, kwargs)
        run = current_run(call)
        if run is not None:
            _ = self._recordable
            run.call_made(call)
        elif not BY_HAND.get():
            result: Awaitable[R] = self.function(*args, **kwargs)
            return result
        return call

    @functools.cached_property
    def is_async(self) -> bool:
        """Whether the function runs on the loop; a plain ``def`` runs on a thread."""
        return inspect.iscoroutinefunction(self.function)

    @functools.cached_property
    def arguments(self) -> Arguments:
        """How the arguments are recorded."""
        return Arguments.of(self.function)

    @functools.cached_property
    def output_type(self) -> ValueType[R]:
        """How the result is recorded."""
        return return_type(self.function)

    @functools.cached_property
    def _recordable(self) -> bool:
        """True. A type that cannot be recorded raises `DefinitionError`: the fault of the line that makes a call."""
        _ = self.arguments, self.output_type
        return True

    def check(self) -> None:
        """Resolve the types of all parameters and of the result. Raise `DefinitionError` naming what is wrong."""
        try:
            _ = self.arguments, self.output_type
        except DefinitionError as error:
            msg = f"{self.function.__module__}.{error}"
            raise DefinitionError(msg) from error

    def with_options(
        self,
        *,
        retry: RetryPolicy | None = None,
        timeout: float | timedelta | Default | None = DEFAULT,
        overlap: bool | None = None,
        key: str | None = None,
        inserted: bool | None = None,
    ) -> Step[P, R]:
        """Return this step with other options.

        ``key`` names the call in place of the step's name. ``inserted=True``
        says that the call was added on purpose before calls that open workflows
        have already made; without it such a workflow pauses. An inserted call
        whose name is recorded already needs a ``key`` of its own.
        """
        return dataclasses.replace(
            self,
            retry=self.retry if retry is None else retry,
            timeout=self.timeout if isinstance(timeout, Default) else seconds_of("timeout", timeout),
            overlap=self.overlap if overlap is None else overlap,
            key=self.key if key is None else checked_key(key),
            inserted=self.inserted if inserted is None else inserted,
        )


@overload
def step(function: Callable[P, Awaitable[R]], /) -> Step[P, R]: ...
@overload
def step(function: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    *,
    name: str | None = ...,
    retry: RetryPolicy | None = ...,
    timeout: float | timedelta | Default | None = ...,
    overlap: bool = ...,
) -> _Decorator: ...
def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    retry: RetryPolicy | None = None,
    timeout: float | timedelta | Default | None = DEFAULT,
    overlap: bool = False,
) -> Any:
    """Make a function a step: its result is recorded once and never computed again.

    ``name`` is what the history calls it (the function's own by default).
    ``timeout`` in seconds cuts an attempt off; None: never. ``async def`` runs
    on the server's loop, ``def`` on a thread. A thread cannot be killed: after
    its timeout the next attempt waits for it to end, unless ``overlap``.

    Raises `DefinitionError` when the function cannot be a step.
    """

    def decorate(target: Callable[..., Any]) -> Step[..., Any]:
        if isinstance(target, Step):
            msg = f"{target.name} is a step already"
            raise DefinitionError(msg)
        if not inspect.isroutine(target) or inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
            msg = f"@step takes a def or async def function that returns a value, not {target!r}"
            raise DefinitionError(msg)
        return Step(
            function=target,
            name=checked_name("step name", name or target.__name__),
            retry=retry or RetryPolicy(),
            timeout=timeout if isinstance(timeout, Default) else seconds_of("timeout", timeout),
            overlap=overlap,
            key="",
            inserted=False,
        )

    return decorate if function is None else decorate(function)


class _Decorator:
    """The type of ``step(...)``; never made."""

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> Step[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Step[P, R]: ...
    def __call__(self, function: Any, /) -> Any:
        raise NotImplementedError(function)
