"""Fakes: what a test puts in the place of a step's code."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mendflow.authoring.context import attempt
from mendflow.authoring.step import Step
from mendflow.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Fake", "FakeCall", "Fakes"]


@dataclass(frozen=True)
class FakeCall:
    """One attempt that ran a fake."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: The attempt's number, from 1.
    attempt: int
    #: The step's key in its workflow.
    step_key: str
    workflow_id: str
    #: The same for every attempt of a step.
    idempotency_key: str


class Fake:
    """The fake of one step. ``calls`` has each attempt that ran it, in order.

    ``outcome`` is called if it is callable, and raised if it is an exception. A list has an outcome for each attempt.
    Anything else is the step's result.
    """

    def __init__(self, name: str, outcome: object) -> None:
        self.name = name
        self.calls: list[FakeCall] = []
        #: Why the fake could not be used; empty if it could.
        self.problem = ""
        self._listed = list(outcome) if isinstance(outcome, list) else None
        self._outcome = outcome
        self._lock = threading.Lock()  # `def` steps run on threads.

    def __repr__(self) -> str:
        return f"<fake of step {self.name}, {len(self.calls)} calls>"

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the next outcome, or raise it. The result of an async callable is an awaitable."""
        this = attempt()
        with self._lock:
            index = len(self.calls)
            call = FakeCall(args, kwargs, this.number, this.step_key, this.workflow_id, this.idempotency_key)
            self.calls.append(call)
        outcome = self._outcome
        if self._listed is not None:
            if index >= len(self._listed):
                self.problem = (
                    f"the fake of step {self.name} has {len(self._listed)} outcomes, and {call.step_key} attempt "
                    f"{call.attempt} needs another one; add an outcome to its list"
                )
                raise AssertionError(self.problem)
            outcome = self._listed[index]
        if isinstance(outcome, BaseException):
            raise outcome.with_traceback(None)
        if isinstance(outcome, type) and issubclass(outcome, BaseException):
            raise outcome
        return outcome(*args, **kwargs) if callable(outcome) else outcome


class Fakes:
    """The fakes of one test, by the step's function or by its name."""

    def __init__(self, names: Iterable[str]) -> None:
        #: The names of the steps that the workflows' modules define.
        self._names = frozenset(names)
        self._by_function: dict[Any, Fake] = {}
        self._by_name: dict[str, Fake] = {}

    def add(self, step: Step[..., Any] | str, outcome: object) -> Fake:
        """Replace a step's code from its next attempt on. Raise `DefinitionError` if no step has the name."""
        if isinstance(step, Step):
            fake = self._by_function[step.function] = Fake(step.name, outcome)
            return fake
        if not isinstance(step, str):
            msg = f"fake() takes a step or a step's name, not {step!r}; decorate the function with @step"
            raise DefinitionError(msg)
        if step not in self._names:
            known = ", ".join(sorted(self._names)) or "none"
            msg = f"no module of the workflows has a step {step!r}; their steps are: {known}; or pass the step itself"
            raise DefinitionError(msg)
        fake = self._by_name[step] = Fake(step, outcome)
        return fake

    def of(self, step: Step[..., Any]) -> Fake | None:
        """Return the fake of a step; None if its own code runs."""
        return self._by_function.get(step.function) or self._by_name.get(step.name)

    @property
    def problems(self) -> list[str]:
        """Why fakes could not be used."""
        fakes = (*self._by_function.values(), *self._by_name.values())
        return [fake.problem for fake in fakes if fake.problem]


def stand_in(step: Step[..., Any], fake: Fake) -> Step[..., Any]:
    """Return the step with a fake in place of its function. It encodes its values as the real one does."""

    async def on_loop(*args: Any, **kwargs: Any) -> Any:
        value = fake.run(args, kwargs)
        return await value if inspect.isawaitable(value) else value

    def on_thread(*args: Any, **kwargs: Any) -> Any:
        value = fake.run(args, kwargs)
        return asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value

    function: Callable[..., Any] = on_loop if step.is_async else on_thread
    replaced = dataclasses.replace(step, function=function)
    # These follow from the signature of the real function.
    vars(replaced).update(is_async=step.is_async, arguments=step.arguments, output_type=step.output_type)
    return replaced


async def _awaited(value: Any) -> Any:
    return await value
