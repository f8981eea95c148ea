"""Workflows: the functions that the server runs to completion."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from mendflow.authoring.context import BY_HAND
from mendflow.authoring.names import checked_name
from mendflow.authoring.step import Step
from mendflow.codec import ValueType, parameter_type, return_type
from mendflow.codec.values import JsonType
from mendflow.errors import DefinitionError, MessageNotExported
from mendflow.protogen.exports import COMMAND, find_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from mendflow.codec.values import MessageCodec
    from mendflow.protogen.exports import WorkflowMessages
    from mendflow.v1 import payload_pb2

__all__ = ["Workflow", "workflow"]

I = TypeVar("I")  # noqa: E741 - the input
R = TypeVar("R")


class Workflow(Generic[I, R]):
    """A decorated workflow function: a workflow type.

    Called, it is just the function, for tests. ``signals`` has the declared
    signals' types by name.
    """

    def __init__(self, function: Callable[..., Coroutine[Any, Any, R]], name: str, signals: Mapping[str, Any]) -> None:
        self.function = function
        self.name = name
        self._signals = dict(signals)
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, R]:
        """Run the function itself, without a server: each step runs once, as the function it is."""

        async def by_hand() -> R:
            token = BY_HAND.set(True)
            try:
                return await self.function(*args, **kwargs)
            finally:
                BY_HAND.reset(token)

        return by_hand()

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"

    @property
    def description(self) -> str:
        """The function's documentation."""
        return inspect.getdoc(self.function) or ""

    @functools.cached_property
    def input_type(self) -> ValueType[I] | None:
        """The type of the one parameter; None when it takes none."""
        value_type = parameter_type(self.function)
        return None if value_type is None else self._with_messages(value_type, lambda messages: messages.input)

    @functools.cached_property
    def no_input_type(self) -> ValueType[None]:
        """The type of the input of a workflow that takes none: null, or its message, which is empty."""
        return self._with_messages(ValueType.of(None), lambda messages: messages.input)

    @functools.cached_property
    def output_type(self) -> ValueType[R]:
        """The type of the result."""
        return self._with_messages(return_type(self.function), lambda messages: messages.output)

    @functools.cached_property
    def signals(self) -> dict[str, ValueType[Any]]:
        """The declared signals' types by name."""
        return {name: self._signal_type(name, annotation) for name, annotation in self._signals.items()}

    def _signal_type(self, name: str, annotation: Any) -> ValueType[Any]:
        return self._with_messages(ValueType.of(annotation), lambda messages: messages.signals.get(name))

    @functools.cached_property
    def messages(self) -> WorkflowMessages | None:
        """The exported messages, by the lock file beside the module; None: there are none.

        Raises `DefinitionError` when the lock file is behind the code.
        """
        return find_messages(self, workflows_of(self.function.__module__))

    def signal_payload(self, name: str, payload: payload_pb2.Payload | None) -> payload_pb2.Payload | None:
        """Answer a signal's data as it would be without exported messages. Raises `PayloadError`."""
        declared = self.signals.get(name)
        return payload if payload is None or declared is None else declared.as_json(payload)

    def _with_messages(
        self, value_type: ValueType[Any], pick: Callable[[WorkflowMessages], MessageCodec | None]
    ) -> ValueType[Any]:
        def form() -> MessageCodec:
            found = None if self.messages is None else pick(self.messages)
            if found is None:
                raise MessageNotExported(self.name, COMMAND.format(module=self.function.__module__))
            return found

        return value_type.with_message_codec(form) if isinstance(value_type, JsonType) else value_type

    def check(self) -> None:
        """Resolve every type now, and read the lock file. Raises `DefinitionError` naming what is wrong."""
        for value_type in (self.input_type, self.output_type, *self.signals.values()):
            if value_type is not None:
                value_type.schema()
        _ = self.messages


def check_steps(namespace: Mapping[str, Any]) -> None:
    """Resolve the types of all steps among a module's globals and in the modules that it imports.

    Raise `DefinitionError` naming the module, the function and the parameter that is wrong.
    """
    things = list(namespace.values())
    for module in [thing for thing in things if isinstance(thing, types.ModuleType)]:
        things += vars(module).values()
    for thing in things:
        # Not by isinstance, which asks the object itself for its class.
        if issubclass(type(thing), Step):
            thing.check()


def workflows_of(module: str) -> list[Workflow[Any, Any]]:
    """Answer the workflows that a loaded module defines, each once."""
    found = {
        id(thing): thing
        for thing in vars(sys.modules.get(module, sys)).values()
        if isinstance(thing, Workflow) and thing.function.__module__ == module
    }
    return list(found.values())


@overload
def workflow(function: Callable[[], Coroutine[Any, Any, R]], /) -> Workflow[None, R]: ...
@overload
def workflow(function: Callable[[I], Coroutine[Any, Any, R]], /) -> Workflow[I, R]: ...
@overload
def workflow(*, name: str | None = ..., signals: Mapping[str, Any] | None = ...) -> _Decorator: ...
def workflow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    signals: Mapping[str, Any] | None = None,
) -> Any:
    """Make an ``async def`` function of at most one parameter a workflow type.

    ``name`` is what callers start it by (the function's own by default).
    ``signals`` declares the types of the signals it takes, by name; the server
    then checks their data at the door.

    Raises `DefinitionError` when the function cannot be a workflow.
    """

    def decorate(target: Callable[..., Any]) -> Workflow[Any, Any]:
        if not inspect.iscoroutinefunction(target):
            msg = f"@workflow takes an async def function, not {target!r}"
            raise DefinitionError(msg)
        parameters = list(inspect.signature(target).parameters.values())
        fixed = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
        if len(parameters) > 1 or any(parameter.kind in fixed for parameter in parameters):
            msg = f"workflow {target.__name__} must take at most one parameter, its input; put several into a dataclass"
            raise DefinitionError(msg)
        if parameters and parameters[0].default is not inspect.Parameter.empty:
            msg = (
                f"workflow {target.__name__}: its input {parameters[0].name} must have no default, which would never "
                "be used: an input that is absent is null; put it into a dataclass, whose fields may have defaults"
            )
            raise DefinitionError(msg)
        names: list[object] = list(signals or {})
        for signal in names:
            if not isinstance(signal, str):
                msg = f"workflow {target.__name__}: the name of a signal must be a string, not {signal!r}"
                raise DefinitionError(msg)
        return Workflow(target, checked_name("workflow name", name or target.__name__), signals or {})

    return decorate if function is None else decorate(function)


class _Decorator:
    """The type of ``workflow(...)``; never made."""

    @overload
    def __call__(self, function: Callable[[], Coroutine[Any, Any, R]], /) -> Workflow[None, R]: ...
    @overload
    def __call__(self, function: Callable[[I], Coroutine[Any, Any, R]], /) -> Workflow[I, R]: ...
    def __call__(self, function: Any, /) -> Any:
        raise NotImplementedError(function)
