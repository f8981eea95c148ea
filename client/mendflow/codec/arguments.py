"""Encoding of a function's arguments as one payload."""

from __future__ import annotations

import inspect
import json
import types
import typing
from typing import TYPE_CHECKING, Any, NotRequired, Required

from pydantic_core import SchemaValidator
from typing_extensions import TypedDict

from mendflow.codec.problems import path_of, payload_error, text_of
from mendflow.codec.values import MessageType, ValueType, adapter_of, read_json
from mendflow.errors import DefinitionError, PayloadError
from mendflow.v1 import payload_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_VARIABLE = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


class Arguments:
    """The encoding of calls of one function.

    A call becomes one JSON object with a member for each given argument, in the
    order of the signature. The argument of a single parameter whose type is a
    protobuf message becomes that message. Defaults are not recorded, so that each
    version of the function applies its own.
    """

    def __init__(self, name: str, signature: inspect.Signature, value_types: dict[str, ValueType[Any]]) -> None:
        self._name = f"arguments of {name}()"
        self._signature = signature
        parameters = signature.parameters.values()
        self._positional = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self._positional_only = {p.name for p in parameters if p.kind is p.POSITIONAL_ONLY}
        needed = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY and p.default is p.empty]
        self._least = len(needed)
        self._needs_keywords = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
        self._dumps = {
            name: (name, json.dumps(name, ensure_ascii=False).encode() + b":", value_type.dump)
            for name, value_type in value_types.items()
        }
        self._dump_list = list(self._dumps.values())
        self._value_types = value_types
        self._message = _single_message(value_types)
        self._validate = _validator(self._name, signature, value_types)

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Arguments:
        """Return the encoding for ``function``. Raise `DefinitionError` if a parameter cannot be recorded."""
        try:
            signature = inspect.signature(function)
        except (ValueError, TypeError) as error:
            message = f"{_name(function)}() has no signature ({error}); wrap it in a def function"
            raise DefinitionError(message) from error
        for parameter in signature.parameters.values():
            if parameter.kind in _VARIABLE:
                raise DefinitionError(
                    f"{_name(function)}() must not have the parameter {_VARIABLE[parameter.kind]}{parameter.name}, "
                    "because only named parameters can be recorded; use a list or a dict"
                )
        hints = resolved_hints(function)
        return cls(_name(function), signature, {name: _typed(function, name, hints) for name in signature.parameters})

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> payload_pb2.Payload:
        """Return the payload of a call.

        Raise TypeError if the arguments do not match the signature, and `PayloadError` if a value does not match its
        type.
        """
        if kwargs or self._needs_keywords or not self._least <= len(args) <= len(self._positional):
            given = self._signature.bind(*args, **kwargs).arguments
            values: Collection[Any] = given.values()
            dumps = [self._dumps[name] for name in given]
        else:
            values, dumps = args, self._dump_list
        if self._message is not None:
            return self._message.encode(next(iter(values))) if values else payload_pb2.Payload()
        if not self._dump_list:
            return payload_pb2.Payload()
        members = []
        for (name, key, dump), value in zip(dumps, values, strict=False):
            try:
                members.append(key + dump(value))
            except PayloadError as error:
                raise self._inside(name, error) from error
        payload = payload_pb2.Payload()
        payload.json = (b"{" + b",".join(members) + b"}").decode()
        return payload

    def decode(self, payload: payload_pb2.Payload | None) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional and the keyword arguments of a recorded call.

        Raise `PayloadError` if the payload does not match the function's types.
        """
        text = "" if payload is None else payload.json
        if text and self._message is None:
            return self._call(self._read(text))
        kind = None if payload is None else payload.WhichOneof("kind")
        if self._message is not None:
            if kind is None and self._least == 0:
                return [], {}
            return self._call({next(iter(self._dumps)): self._message.decode(payload)})
        if payload is None or kind is None:
            return self._call(self._read("{}"))
        if kind == "message":
            first = next(iter(self._value_types), "")
            if self._least <= 1 and not self._needs_keywords and isinstance(self._value_types.get(first), MessageType):
                # The message was recorded when this was the only parameter.
                return self._call({first: self._value_types[first].decode(payload)})
            raise payload_error(self._name, [("", f"must be JSON, not the message {payload.message.type_url}")])
        return self._call(self._read(payload.json))

    def _read(self, text: str) -> dict[str, Any]:
        try:
            values: dict[str, Any] = read_json(self._validate, text, self._name)
        except PayloadError as error:
            if isinstance(error.__cause__, ValueError | RecursionError):
                raise
            # A parameter's type raised an error without a path. Find the parameter.
            for name, member in json.loads(text).items():
                try:
                    self._value_types[name].decode(payload_pb2.Payload(json=json.dumps(member)))
                except PayloadError as found:
                    raise self._inside(name, found) from error
            raise
        return values

    def canonical(self, payload: payload_pb2.Payload | None) -> payload_pb2.Payload:
        """Return the payload that a recorded call would have now, including all defaults.

        Raise `PayloadError` if the recorded payload does not match the function's types.
        """
        args, kwargs = self.decode(payload)
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            return self.encode(bound.args, bound.kwargs)
        except PayloadError:
            return self.encode(tuple(args), kwargs)  # A default may have another type than its parameter.

    def _call(self, values: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        if len(values) == len(self._dumps) == len(self._positional):
            return list(values.values()), {}  # The validator returns them in the order of the signature.
        args = []
        for name in self._positional:
            if name not in values:
                break
            args.append(values.pop(name))
        # After a missing argument the rest go by name, but a positional-only parameter has no name.
        stranded = self._positional_only & values.keys() if values else ()
        if stranded:
            problem = "requires the positional parameters before it, and one of them is missing"
            raise payload_error(self._name, [(path_of([name]), problem) for name in sorted(stranded)])
        return args, values

    def _inside(self, name: str, error: PayloadError) -> PayloadError:
        problems = [
            (name + (path if path.startswith("[") else f".{path}" if path else ""), problem)
            for path, problem in error.problems
        ]
        return payload_error(self._name, problems)


def parameter_type(function: Callable[..., Any]) -> ValueType[Any] | None:
    """Return the type of a function's first parameter, or None if it has none. Raise `DefinitionError`."""
    name = next(iter(inspect.signature(function).parameters), None)
    return None if name is None else _typed(function, name, resolved_hints(function))


def return_type(function: Callable[..., Any]) -> ValueType[Any]:
    """Return the type of a function's result. Raise `DefinitionError` if it cannot be recorded."""
    return _typed(function, "return", resolved_hints(function))


def resolved_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return a function's resolved annotations. Raise `DefinitionError` if a name in them cannot be resolved."""
    target = inspect.unwrap(function)
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception as error:  # a user's annotation may raise anything
        raise DefinitionError(
            f"{_name(function)}(): the type of {_unresolved(target)} cannot be resolved: {text_of(error)}. "
            "Define or import it in the module, not in a function and not under TYPE_CHECKING."
        ) from error


def _unresolved(function: Callable[..., Any]) -> str:
    for name, annotation in getattr(function, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            typing.get_type_hints(alone, globalns=getattr(function, "__globals__", {}), include_extras=True)
        except Exception:  # noqa: BLE001 - as above
            return "the result" if name == "return" else f"parameter {name!r}"
    return "a parameter"


def _typed(function: Callable[..., Any], name: str, hints: dict[str, Any]) -> ValueType[Any]:
    try:
        return ValueType.of(hints.get(name, inspect.Parameter.empty))
    except DefinitionError as error:
        place = "the result" if name == "return" else f"parameter {name!r}"
        raise DefinitionError(f"{_name(function)}(): {place}: {error}") from error


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


def _single_message(value_types: dict[str, ValueType[Any]]) -> MessageType[Any] | None:
    if len(value_types) != 1:
        return None
    (value_type,) = value_types.values()
    # For a nullable message, an unset payload would be ambiguous: None or the default.
    return value_type if isinstance(value_type, MessageType) and not value_type.nullable else None


def _validator(name: str, signature: inspect.Signature, value_types: dict[str, ValueType[Any]]) -> Any:
    """Return the function that validates a JSON object with all arguments in one pass."""
    fields = {
        parameter: (
            Required[value_type.member]
            if signature.parameters[parameter].default is inspect.Parameter.empty
            else NotRequired[value_type.member]
        )
        for parameter, value_type in value_types.items()
    }
    make: Any = TypedDict
    schema: Any = adapter_of(make("Arguments", fields), name).core_schema
    # Set it in the schema, because dataclass fields would inherit a class config.
    inner = schema
    while inner["type"] != "typed-dict":
        inner = inner["schema"]
    inner["extra_behavior"] = "forbid"
    return SchemaValidator(schema).validate_json
