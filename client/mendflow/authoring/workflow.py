"""Workflows: functions that the server runs to completion."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, overload

from mendflow.authoring.by_hand import call_by_hand
from mendflow.authoring.functions import check_function
from mendflow.authoring.names import checked_name, checked_signal
from mendflow.authoring.step import DEFAULT, Default, Step, seconds_of
from mendflow.codec import ValueType, parameter_type, return_type
from mendflow.codec.values import JsonType
from mendflow.errors import DefinitionError, MessageNotExported
from mendflow.protogen.finding import find_messages
from mendflow.protogen.lock_path import COMMAND

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from datetime import timedelta

    from mendflow.codec.values import MessageCodec
    from mendflow.protogen.exports import WorkflowMessages
    from mendflow.v1 import payload_pb2

__all__ = ["Workflow", "workflow"]

I = TypeVar("I")  # noqa: E741 - the input
R = TypeVar("R")


class Workflow(Generic[I, R]):
    """A decorated workflow function, which is a workflow type.

    A test can call it by hand, like the plain function. ``signals`` maps the names of the
    declared signals to their types. ``retention`` is the time in seconds for which the
    server keeps a workflow after its end; None means without limit, and `DEFAULT` means
    the server's ``retention``.
    """

    def __init__(
        self,
        function: Callable[..., Coroutine[Any, Any, R]],
        name: str,
        signals: Mapping[str, Any],
        *,
        on_error: Literal["fail", "pause"] = "fail",
        retention: float | Default | None = DEFAULT,
    ) -> None:
        self.function = function
        self.name = name
        #: What an error of the function does to the workflow.
        self.on_error = on_error
        self._signals = dict(signals)
        self.retention = retention
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, R]:
        """Return a coroutine that runs the function by hand: without a server, and without waiting.

        Steps are retried as on a server. Backoffs, sleeps and the timeouts of signals take no time. Signals come from
        `mendflow.testing.by_hand`. The coroutine returns what the function returns, and raises what it raises.
        """
        code: Any = call_by_hand(self, args, kwargs)
        code.__qualname__ = self.function.__qualname__  # The warning about a forgotten await has it.
        called: Coroutine[Any, Any, R] = code
        return called

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"

    @property
    def description(self) -> str:
        """The function's docstring."""
        return inspect.getdoc(self.function) or ""

    @functools.cached_property
    def input_type(self) -> ValueType[I] | None:
        """The type of the parameter; None if the function takes none."""
        value_type = parameter_type(self.function)
        return None if value_type is None else self._with_messages(value_type, lambda messages: messages.input)

    @functools.cached_property
    def no_input_type(self) -> ValueType[None]:
        """The input type of a workflow without a parameter: null, or an empty message if one is exported."""
        return self._with_messages(ValueType.of(None), lambda messages: messages.input)

    @functools.cached_property
    def output_type(self) -> ValueType[R]:
        """The type of the result."""
        return self._with_messages(return_type(self.function), lambda messages: messages.output)

    @functools.cached_property
    def signals(self) -> dict[str, ValueType[Any]]:
        """The types of the declared signals, by name."""
        return {name: self._signal_type(name, annotation) for name, annotation in self._signals.items()}

    def _signal_type(self, name: str, annotation: Any) -> ValueType[Any]:
        return self._with_messages(ValueType.of(annotation), lambda messages: messages.signals.get(name))

    @functools.cached_property
    def messages(self) -> WorkflowMessages | None:
        """The messages that the lock file beside the module exports; None without a lock file.

        Raise `DefinitionError` if the lock file is out of date.
        """
        return find_messages(self, workflows_of(self.function.__module__))

    def signal_payload(self, name: str, payload: payload_pb2.Payload | None) -> payload_pb2.Payload | None:
        """Return a signal's data, converted to JSON if it arrived as an exported message. Raise `PayloadError`."""
        declared = self.signals.get(name)
        return payload if payload is None or declared is None else declared.as_json(payload)

    def _with_messages(
        self, value_type: ValueType[Any], pick: Callable[[WorkflowMessages], MessageCodec | None]
    ) -> ValueType[Any]:
        def codec() -> MessageCodec:
            found = None if self.messages is None else pick(self.messages)
            if found is None:
                raise MessageNotExported(self.name, COMMAND.format(module=self.function.__module__))
            return found

        return value_type.with_message_codec(codec) if isinstance(value_type, JsonType) else value_type

    def check(self) -> None:
        """Resolve every type and read the lock file. Raise `DefinitionError` if a type cannot be recorded."""
        for value_type in (self.input_type, self.output_type, *self.signals.values()):
            if value_type is not None:
                value_type.schema()
        _ = self.messages


def check_steps(namespace: Mapping[str, Any]) -> None:
    """Resolve the types of all steps in a module's globals and in the modules that it imports.

    Raise `DefinitionError` if a type cannot be recorded. The message names the module, the function and the parameter.
    """
    things = list(namespace.values())
    for module in [thing for thing in things if isinstance(thing, types.ModuleType)]:
        things += vars(module).values()
    for thing in things:
        # isinstance would call the object's own __class__, which may raise.
        if issubclass(type(thing), Step):
            thing.check()


def workflows_of(module: str) -> list[Workflow[Any, Any]]:
    """Return the workflows that a loaded module defines, without duplicates."""
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
def workflow(
    *,
    name: str | None = ...,
    signals: Mapping[str, Any] | None = ...,
    on_error: Literal["fail", "pause"] = ...,
    retention: float | timedelta | Default | None = ...,
) -> _Decorator: ...
def workflow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    signals: Mapping[str, Any] | None = None,
    on_error: Literal["fail", "pause"] = "fail",
    retention: float | timedelta | Default | None = DEFAULT,
) -> Any:
    """Make an ``async def`` function with at most one parameter a workflow type.

    ``name`` is the name that callers use; the default is the function's name.
    ``signals`` maps signal names to types. The server checks the data of a
    declared signal when it arrives. With ``on_error="pause"``, an error that
    the function raises pauses the workflow instead of failing it: it continues
    when fixed code is served. ``retention`` is the time for which the server keeps
    a workflow after its end, in seconds or as a ``timedelta``; None means without
    limit, and the default is the server's setting ``MENDFLOW_RETENTION``.

    Raise `DefinitionError` if the function cannot be a workflow.
    """

    def decorate(target: Callable[..., Any]) -> Workflow[Any, Any]:
        if isinstance(target, Workflow):
            msg = f"{target.name} is already a workflow"
            raise DefinitionError(msg)
        check_function("@workflow", target, only_async=True)
        parameters = list(inspect.signature(target).parameters.values())
        fixed = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
        if len(parameters) > 1 or any(parameter.kind in fixed for parameter in parameters):
            msg = (
                f"workflow {target.__name__} must take at most one parameter, its input; "
                "use a dataclass for several values"
            )
            raise DefinitionError(msg)
        if parameters and parameters[0].default is not inspect.Parameter.empty:
            msg = (
                f"workflow {target.__name__}: parameter {parameters[0].name!r} must not have a default, because an "
                "absent input is null; use a dataclass, whose fields may have defaults"
            )
            raise DefinitionError(msg)
        names: list[object] = list(signals or {})
        for signal in names:
            if not isinstance(signal, str):
                msg = f"workflow {target.__name__}: a signal's name must be a string, not {signal!r}"
                raise DefinitionError(msg)
            checked_signal(signal)
        if on_error not in ("fail", "pause"):
            msg = f'workflow {target.__name__}: on_error must be "fail" or "pause", not {on_error!r}'
            raise DefinitionError(msg)
        checked = checked_name("workflow name", target.__name__ if name is None else name)
        kept = retention if isinstance(retention, Default) else seconds_of("retention", retention)
        return Workflow(target, checked, signals or {}, on_error=on_error, retention=kept)

    return decorate if function is None else decorate(function)


class _Decorator(Protocol):
    """The static type of ``workflow(...)``."""

    @overload
    def __call__(self, function: Callable[[], Coroutine[Any, Any, R]], /) -> Workflow[None, R]: ...
    @overload
    def __call__(self, function: Callable[[I], Coroutine[Any, Any, R]], /) -> Workflow[I, R]: ...
