"""A function's arguments as one payload."""

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
    """How calls of one function are recorded.

    One JSON object with a member for each argument given, in the order of the
    signature; the message itself for a single parameter that is one. Defaults
    are not filled in: they are the function's own, in each version of it.
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
        """Answer the arguments of ``function``. Raises `DefinitionError` naming the parameter at fault."""
        try:
            signature = inspect.signature(function)
        except (ValueError, TypeError) as error:
            raise DefinitionError(f"{_name(function)}() has no signature: {error}; wrap it in a def") from error
        for parameter in signature.parameters.values():
            if parameter.kind in _VARIABLE:
                raise DefinitionError(
                    f"{_name(function)}() has the parameter {_VARIABLE[parameter.kind]}{parameter.name}: "
                    "what is recorded needs named parameters, take a list or a dict"
                )
        hints = resolved_hints(function)
        return cls(_name(function), signature, {name: _typed(function, name, hints) for name in signature.parameters})

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> payload_pb2.Payload:
        """Answer the payload of a call.

        Raises TypeError when the function could not be called so, `PayloadError` when a value does not fit.
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
        return payload_pb2.Payload(json=(b"{" + b",".join(members) + b"}").decode())

    def decode(self, payload: payload_pb2.Payload | None) -> tuple[list[Any], dict[str, Any]]:
        """Answer what to call the function with. Raises `PayloadError` when it does not fit."""
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
                # It was recorded when this was the only parameter.
                return self._call({first: self._value_types[first].decode(payload)})
            raise payload_error(self._name, [("", f"takes JSON, not the message {payload.message.type_url}")])
        return self._call(self._read(payload.json))

    def _read(self, text: str) -> dict[str, Any]:
        try:
            values: dict[str, Any] = read_json(self._validate, text, self._name)
        except PayloadError as error:
            if isinstance(error.__cause__, ValueError | RecursionError):
                raise
            # The type of one parameter raised what says no place: look for that parameter.
            for name, member in json.loads(text).items():
                try:
                    self._value_types[name].decode(payload_pb2.Payload(json=json.dumps(member)))
                except PayloadError as found:
                    raise self._inside(name, found) from error
            raise
        return values

    def canonical(self, payload: payload_pb2.Payload | None) -> payload_pb2.Payload:
        """Return a recorded payload as the same call would be recorded now, with all defaults filled in.

        Raises `PayloadError` when it does not fit.
        """
        args, kwargs = self.decode(payload)
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            return self.encode(bound.args, bound.kwargs)
        except PayloadError:
            return self.encode(tuple(args), kwargs)  # A default need not be a value of its parameter's type.

    def _call(self, values: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        if len(values) == len(self._dumps) == len(self._positional):
            return list(values.values()), {}  # All of them, in the order of the signature, as the validator has them.
        args = []
        for name in self._positional:
            if name not in values:
                break
            args.append(values.pop(name))
        # After a gap all go by name, which a positional-only one cannot.
        stranded = self._positional_only & values.keys() if values else ()
        if stranded:
            problem = "is given, but a parameter before it is not"
            raise payload_error(self._name, [(path_of([name]), problem) for name in sorted(stranded)])
        return args, values

    def _inside(self, name: str, error: PayloadError) -> PayloadError:
        problems = [
            (name + (path if path.startswith("[") else f".{path}" if path else ""), problem)
            for path, problem in error.problems
        ]
        return payload_error(self._name, problems)


def parameter_type(function: Callable[..., Any]) -> ValueType[Any] | None:
    """Answer the type of a function's first parameter; None when it takes none. Raises `DefinitionError`."""
    name = next(iter(inspect.signature(function).parameters), None)
    return None if name is None else _typed(function, name, resolved_hints(function))


def return_type(function: Callable[..., Any]) -> ValueType[Any]:
    """Answer the type of what a function returns. Raises `DefinitionError`."""
    return _typed(function, "return", resolved_hints(function))


def resolved_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Answer a function's annotations, resolved. Raises `DefinitionError` naming the parameter at fault."""
    target = inspect.unwrap(function)
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception as error:  # an annotation is the user's own expression
        raise DefinitionError(
            f"{_name(function)}(): the type of {_unresolved(target)} cannot be resolved: {text_of(error)}. "
            "It must be a name of the module at run time: not of a function, nor imported under TYPE_CHECKING."
        ) from error


def _unresolved(function: Callable[..., Any]) -> str:
    for name, annotation in getattr(function, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            typing.get_type_hints(alone, globalns=getattr(function, "__globals__", {}), include_extras=True)
        except Exception:  # noqa: BLE001 - as above
            return "its result" if name == "return" else f"parameter {name!r}"
    return "a parameter"


def _typed(function: Callable[..., Any], name: str, hints: dict[str, Any]) -> ValueType[Any]:
    try:
        return ValueType.of(hints.get(name, inspect.Parameter.empty))
    except DefinitionError as error:
        place = "its result" if name == "return" else f"parameter {name!r}"
        raise DefinitionError(f"{_name(function)}(): {place}: {error}") from error


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


def _single_message(value_types: dict[str, ValueType[Any]]) -> MessageType[Any] | None:
    if len(value_types) != 1:
        return None
    (value_type,) = value_types.values()
    # With a nullable one, an unset payload could mean None or the default.
    return value_type if isinstance(value_type, MessageType) and not value_type.nullable else None


def _validator(name: str, signature: inspect.Signature, value_types: dict[str, ValueType[Any]]) -> Any:
    """Answer what reads a whole object of arguments, in one pass over the text."""
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
    # Set here and not by the class's config, which the dataclasses among the fields would take over.
    inner = schema
    while inner["type"] != "typed-dict":
        inner = inner["schema"]
    inner["extra_behavior"] = "forbid"
    return SchemaValidator(schema).validate_json
