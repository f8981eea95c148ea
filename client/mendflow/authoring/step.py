"""Steps: functions whose results the server records."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, overload

from mendflow.authoring.calls import LONGEST, Call
from mendflow.authoring.context import current_run
from mendflow.authoring.functions import check_function
from mendflow.authoring.names import checked_key, checked_name
from mendflow.authoring.retry import RetryPolicy
from mendflow.codec import Arguments, ValueType, return_type
from mendflow.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Step", "step"]

P = ParamSpec("P")
R = TypeVar("R")


class Default:
    """The type of `DEFAULT`, which selects the server's setting."""

    def __repr__(self) -> str:
        return "server default"


DEFAULT = Default()


def seconds_of(what: str, value: float | timedelta | None) -> float | None:
    """Return a time in seconds; None means no limit. Raise `DefinitionError` if it is out of range."""
    if value is None:
        return None
    given: object = value
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    # NaN, and a number that is too large for a float, are not in this range.
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST:
        msg = f"{what} must be a number of seconds above 0 and at most 100 years, or None for no limit, not {value!r}"
        raise DefinitionError(msg)
    return float(seconds)


class StepCall(Call[R]):
    """A call of a step with its arguments."""

    __slots__ = ("args", "kwargs", "step")

    def __init__(self, step: Step[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.step = step
        self.args = args
        self.kwargs = kwargs

    def __str__(self) -> str:
        return f"step {self.step.name}()"


@dataclasses.dataclass(frozen=True)
class Step(Generic[P, R]):
    """A decorated step. Call and await it inside a workflow; outside a workflow it is the plain function.

    ``timeout`` limits one attempt, in seconds; None means no limit, and
    `DEFAULT` means the server's ``attempt_timeout``. ``key`` names the call
    inside its scope and replaces the default key, which is the step's name.
    ``inserted`` marks a call that you added before calls that open workflows
    have already made.
    """

    function: Callable[P, Any]
    name: str
    retry: RetryPolicy
    timeout: float | Default | None
    overlap: bool
    key: str
    inserted: bool

    def __post_init__(self) -> None:
        # functools.update_wrapper cannot set attributes of a frozen dataclass.
        for attribute in functools.WRAPPER_ASSIGNMENTS:
            self.__dict__[attribute] = getattr(self.function, attribute, None)
        self.__dict__["__wrapped__"] = self.function
        retry: object = self.retry
        if not isinstance(retry, RetryPolicy):
            msg = f"step {self.name}: retry must be a RetryPolicy, not {retry!r}"
            raise DefinitionError(msg)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        """Return an awaitable inside a workflow, and the function's own return value outside."""
        call: StepCall[R] = StepCall(self, args, kwargs)
        run = current_run(call)
        if run is None:
            result: Awaitable[R] = self.function(*args, **kwargs)
            return result
        _ = self._recordable
        run.call_made(call)
        return call

    @functools.cached_property
    def is_async(self) -> bool:
        """True if the function runs on the event loop; a plain ``def`` runs on a thread."""
        return inspect.iscoroutinefunction(self.function)

    @functools.cached_property
    def arguments(self) -> Arguments:
        """The encoding of the arguments."""
        return Arguments.of(self.function)

    @functools.cached_property
    def output_type(self) -> ValueType[R]:
        """The encoding of the result."""
        return return_type(self.function)

    @functools.cached_property
    def _recordable(self) -> bool:
        """True. Raise `DefinitionError` for a type that cannot be recorded, at the line that makes the call."""
        _ = self.arguments, self.output_type
        return True

    def check(self) -> None:
        """Resolve the types of the parameters and the result. Raise `DefinitionError` if one cannot be recorded."""
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
        """Return a copy of this step with other options.

        ``key`` names the call and replaces the step's name. ``inserted=True``
        declares that you added the call on purpose before calls that open
        workflows have already made; without it such a workflow pauses. An
        inserted call whose name is already recorded needs its own ``key``.
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
    """Make a function a step, whose result is recorded once and never computed again.

    ``name`` is the name in the history; the default is the function's name.
    ``timeout`` limits one attempt, in seconds; None means no limit. An
    ``async def`` runs on the server's event loop, a ``def`` on a thread. A
    thread cannot be killed, so the attempt after a timeout waits until the
    thread ends. With ``overlap`` it does not wait.

    Raise `DefinitionError` if the function cannot be a step.
    """

    def decorate(target: Callable[..., Any]) -> Step[..., Any]:
        if isinstance(target, Step):
            msg = f"{target.name} is already a step"
            raise DefinitionError(msg)
        check_function("@step", target, only_async=False)
        return Step(
            function=target,
            name=checked_name("step name", target.__name__ if name is None else name),
            retry=retry or RetryPolicy(),
            timeout=timeout if isinstance(timeout, Default) else seconds_of("timeout", timeout),
            overlap=overlap,
            key="",
            inserted=False,
        )

    return decorate if function is None else decorate(function)


class _Decorator(Protocol):
    """The static type of ``step(...)``."""

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> Step[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Step[P, R]: ...
