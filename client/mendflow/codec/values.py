"""The encoding of one value: JSON by pydantic, or a protobuf message."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import types
import typing
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, Self, TypeVar

import pydantic
from google.protobuf import json_format
from google.protobuf.message import DecodeError, EncodeError, Message
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError, SchemaError, ValidationError, to_json
from typing_extensions import override

from mendflow.codec.abstract import concrete
from mendflow.codec.difference import difference
from mendflow.codec.exact import exact_test
from mendflow.codec.own_type import names_own_type
from mendflow.codec.plain import plain_test
from mendflow.codec.problems import (
    foreign_problems,
    payload_error,
    serialization_problems,
    strict_json,
    text_of,
    type_name,
    validation_problems,
)
from mendflow.codec.roundtrip import FLOATS, kinds_in, may_overflow, not_finite, ordered
from mendflow.codec.unrecordable import unrecordable
from mendflow.errors import DefinitionError, PayloadError
from mendflow.v1 import payload_pb2, workflow_service_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf import any_pb2

    from mendflow.codec.problems import Problem

T = TypeVar("T")

#: The errors that pydantic raises for a type without a schema.
SCHEMA_ERRORS = (PydanticUserError, SchemaError, NameError, TypeError, RecursionError)
_TYPE_URL = "type.googleapis.com/"
#: What pydantic writes in a key in place of a lone surrogate.
_REPLACED = "\ufffd".encode()


class MessageCodec(Protocol):
    """The conversion between the JSON of a type and its protobuf message."""

    #: The message's full name.
    name: str

    def to_json(self, message: any_pb2.Any) -> str:
        """Return a message's value as JSON text. Raise `PayloadError` if it has none."""

    def to_message(self, text: str | bytes) -> payload_pb2.Payload:
        """Return a payload with the message for a JSON text. Raise `PayloadError` if there is none."""


class ValueType(ABC, Generic[T]):
    """The encoding of the values of one annotation.

    It is thread-safe. An unset payload and None both mean JSON null.
    """

    #: The type's name, for error messages.
    name: str

    @staticmethod
    def of(annotation: Any) -> ValueType[Any]:
        """Return the encoding for a resolved annotation. A missing annotation means `typing.Any`, None means NoneType.

        Raise `DefinitionError` if the type cannot be recorded.
        """
        # Cache only classes: int | str equals str | int, but is another type.
        return _of_class(annotation) if isinstance(annotation, type) else _of(annotation)

    @abstractmethod
    def encode(self, value: T) -> payload_pb2.Payload:
        """Return the payload of ``value``.

        Raise `PayloadError` if the value does not match the type, or would be decoded as another value.
        """

    @abstractmethod
    def decode(self, payload: payload_pb2.Payload | None) -> T:
        """Return the value of ``payload``. Raise `PayloadError` if it does not match the type."""

    def accept(self, payload: payload_pb2.Payload | None) -> T:
        """Return the value of a payload that a caller sent.

        Raise `PayloadError` if it does not match the type, or has a number that cannot be recorded, such as 1e999.
        """
        return self.decode(payload)

    def answer(self, value: T, request: payload_pb2.Payload | None) -> payload_pb2.Payload:
        """Return the payload of a result, as a message if the input was a message and the type has one."""
        del request
        return self.encode(value)

    def as_json(self, payload: payload_pb2.Payload) -> payload_pb2.Payload:
        """Return the payload with an exported message converted to JSON. Raise `PayloadError` if it is invalid."""
        return payload

    @abstractmethod
    def schema(self) -> workflow_service_pb2.ValueSchema:
        """Return the type's published schema. Raise `DefinitionError` if JSON Schema cannot express the type."""

    @abstractmethod
    def dump(self, value: T) -> bytes:
        """Return ``value`` as one JSON text. Raise `PayloadError` if it does not match the type."""

    @property
    @abstractmethod
    def member(self) -> Any:
        """The annotation with which pydantic decodes the output of `dump` inside a larger text."""

    def error(self, problems: Sequence[Problem]) -> PayloadError:
        """Return the error for these problems."""
        return payload_error(self.name, problems)


class JsonType(ValueType[T]):
    """The encoding of a type that pydantic supports."""

    def __init__(self, annotation: Any) -> None:
        self.name = type_name(annotation)
        self._annotation = concrete(annotation)
        self._adapter = adapter_of(self._annotation, self.name)
        schema = self._adapter.core_schema
        lost = unrecordable(schema)
        if lost is not None:
            raise DefinitionError(f"{self.name} cannot be recorded: {': '.join(filter(None, lost))}")
        kinds = kinds_in(schema)
        self._has_sets = bool(kinds & {"set", "frozenset"})
        self._has_floats = bool(kinds & FLOATS)
        self._to_json = self._adapter.serializer.to_json
        self._is_plain = plain_test(annotation)
        exact = None if self._is_plain else exact_test(schema)
        self._is_exact = exact and exact.passes
        self._is_constrained = exact is not None and exact.constrained
        self._validate = self._adapter.validator.validate_json
        self._message_codec: Callable[[], MessageCodec] | None = None

    def with_message_codec(self, codec: Callable[[], MessageCodec]) -> Self:
        """Return a copy of this type that also accepts messages. It calls ``codec`` for the first message."""
        with_codec = copy.copy(self)
        with_codec._message_codec = codec  # noqa: SLF001 - same class
        return with_codec

    @property
    @override
    def member(self) -> Any:
        return self._annotation

    @override
    def encode(self, value: T) -> payload_pb2.Payload:
        text = self.dump(value)
        payload = payload_pb2.Payload()
        if text != b"null":
            payload.json = text.decode()  # As a keyword it takes half as long again.
        return payload

    @override
    def decode(self, payload: payload_pb2.Payload | None) -> T:
        text = "null" if payload is None else payload.json
        if not text and payload is not None:  # JSON is never empty, so it is something else.
            kind = payload.WhichOneof("kind")
            if kind != "json":
                text = "null" if kind is None else self._message_json(payload.message)
        return self._load(text)

    @override
    def accept(self, payload: payload_pb2.Payload | None) -> T:
        value = self.decode(payload)
        if self._has_floats and payload is not None and (not payload.json or may_overflow(payload.json)):
            try:
                self._check_finite(value)
            except PayloadError:
                raise
            except Exception:  # noqa: BLE001 - the value's class may raise anything, when it is written
                return value
        return value

    @override
    def answer(self, value: T, request: payload_pb2.Payload | None) -> payload_pb2.Payload:
        payload = self.encode(value)
        if self._message_codec is not None and request is not None and request.HasField("message"):
            try:
                return self._message_codec().to_message(payload.json or "null")
            except PayloadError:
                # The message cannot hold the value, so return it as JSON.
                return payload
        return payload

    @override
    def as_json(self, payload: payload_pb2.Payload) -> payload_pb2.Payload:
        return payload_pb2.Payload(json=self._message_json(payload.message)) if payload.HasField("message") else payload

    def _message_json(self, message: any_pb2.Any) -> str:
        if self._message_codec is None:
            raise self.error([("", f"must be JSON, not the message {message.type_url}")])
        return self._message_codec().to_json(message)

    @override
    def dump(self, value: T) -> bytes:
        try:
            if self._is_plain is not None and self._is_plain(value):
                # Not by the type's own serializer, which writes a lone surrogate in a key as another text.
                try:
                    return to_json(value)
                except ValueError:
                    pass  # A lone surrogate has no text. The error below names its place.
            text = self._exact(value) if self._is_exact is not None and self._is_exact(value) else None
            return self._compared(value) if text is None else text
        except PayloadError:
            raise
        except BaseException as error:  # the value's class may raise anything
            raise self.error(foreign_problems(error)) from error

    def _exact(self, value: T) -> bytes | None:
        """Return the text of a value that is proven to come back, or None if it may have an invalid part.

        Such a value gives no warnings, and collecting them would release the GIL.
        """
        try:
            text = self._sorted(value) if self._has_sets else self._to_json(value, by_alias=True, warnings=False)
            if self._is_constrained:
                self._validate(text)
        except ValueError:
            return None
        return None if _REPLACED in text else text  # It may be a lone surrogate in a key.

    def _compared(self, value: T) -> bytes:
        """Return the text of a value. Raise `PayloadError` if a reader would get another value."""
        try:
            text = self._to_json(value, by_alias=True, warnings="error")
            if self._has_sets:
                text = self._sorted(value)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self.error(serialization_problems(error)) from error
        if b"null" in text or b"NaN" in text or b"Infinity" in text:
            # pydantic writes NaN as null, or as NaN if a model's config says so.
            self._check_finite(value)
            back = self._load(text)
        else:
            try:
                back = self._validate(text)
            except ValueError as error:
                raise self._unreadable(error) from error
        problem = difference(value, back, is_named=functools.partial(names_own_type, self._adapter.core_schema, value))
        if problem is not None:
            raise self.error([problem])
        return text

    def _check_finite(self, value: T) -> None:
        problem = not_finite(self._adapter.serializer.to_python(value, by_alias=True, warnings=False))
        if problem is not None:
            raise self.error([problem])

    def _sorted(self, value: T) -> bytes:
        plain = self._adapter.serializer.to_python(value, by_alias=True)
        shown = self._adapter.serializer.to_python(value, mode="json", by_alias=True)
        return to_json(ordered(plain, shown))

    def _unreadable(self, error: ValueError) -> PayloadError:
        found = validation_problems(error) if isinstance(error, ValidationError) else serialization_problems(error)
        return self.error(found)

    def _load(self, text: str | bytes) -> T:
        value: T = read_json(self._validate, text, self.name)
        return value

    @override
    def schema(self) -> workflow_service_pb2.ValueSchema:
        return workflow_service_pb2.ValueSchema(json_schema=self._schema_text)

    @functools.cached_property
    def _schema_text(self) -> str:
        try:
            schema = self._adapter.json_schema(schema_generator=_Schema)
        except Exception as error:  # a class's __get_pydantic_json_schema__ may raise anything
            raise DefinitionError(f"{self.name} has no JSON Schema: {text_of(error)}") from error
        return json.dumps({"$schema": _Schema.schema_dialect, **schema}, separators=(",", ":"), ensure_ascii=False)


class MessageType(ValueType[T]):
    """The encoding of a protobuf message. A nullable one also accepts None."""

    def __init__(self, message: type[Message], *, nullable: bool) -> None:
        descriptor = getattr(message, "DESCRIPTOR", None)
        if descriptor is None:
            raise DefinitionError("google.protobuf.message.Message is a base class; use a generated message class")
        self.name = descriptor.full_name
        self.nullable = nullable
        self._class = message

    @property
    @override
    def member(self) -> Any:
        return Annotated[Any, pydantic.PlainValidator(self._member)]

    @override
    def encode(self, value: T) -> payload_pb2.Payload:
        payload = payload_pb2.Payload()
        message = self._checked(value)
        if message is not None:
            payload.message.type_url = _TYPE_URL + self.name
            try:
                payload.message.value = message.SerializeToString(deterministic=True)
            except (EncodeError, ValueError) as error:
                raise self.error([("", str(error))]) from error
        return payload

    @override
    def decode(self, payload: payload_pb2.Payload | None) -> T:
        kind = None if payload is None else payload.WhichOneof("kind")
        if payload is None or kind is None:
            return self._from_json("null")
        if kind == "json":
            return self._from_json(payload.json)
        url = payload.message.type_url
        if "/" not in url or url.rpartition("/")[2] != self.name:
            raise self.error([("", f"must be the message {self.name}, not {url!r}")])
        try:
            return typing.cast("T", self._class.FromString(payload.message.value))
        except DecodeError as error:
            raise self.error([("", f"its bytes are not a {self.name}: {error}")]) from error

    @override
    def dump(self, value: T) -> bytes:
        message = self._checked(value)
        if message is None:
            return b"null"
        try:
            members = json_format.MessageToDict(message)
            return json.dumps(
                members, separators=(",", ":"), ensure_ascii=False, sort_keys=True, allow_nan=False
            ).encode()
        except (ValueError, TypeError, RecursionError, json_format.Error) as error:
            raise self.error(serialization_problems(error)) from error

    @override
    def schema(self) -> workflow_service_pb2.ValueSchema:
        return workflow_service_pb2.ValueSchema(message_name=self.name)

    def _checked(self, value: T) -> Message | None:
        if value is None and self.nullable:
            return None
        try:
            fits = isinstance(value, self._class)
        except Exception:  # noqa: BLE001 - the value's __class__ may raise anything
            fits = False
        if not fits:
            raise self.error([("", f"is of type {type_name(type(value))}")])
        return typing.cast("Message", value)

    def _from_json(self, text: str) -> T:
        try:
            return self._parse(strict_json(text, unique=True))
        except RecursionError as error:
            raise self.error([("", "is nested too deeply")]) from error
        except (ValueError, json_format.ParseError) as error:
            raise self.error([("", str(error))]) from error

    def _member(self, members: Any) -> T:
        try:
            return self._parse(members)
        except (ValueError, RecursionError, json_format.ParseError) as error:
            raise PydanticCustomError("protobuf", "{problem}", {"problem": str(error)}) from error

    def _parse(self, members: Any) -> T:
        if members is None and self.nullable:
            return typing.cast("T", None)
        if not isinstance(members, dict) and not self.name.startswith("google.protobuf."):
            # ParseDict would accept any empty iterable as an empty message.
            raise ValueError(f"must be a JSON object for {self.name}, not a {type(members).__name__}")
        try:
            return typing.cast("T", json_format.ParseDict(members, self._class()))
        except (TypeError, AttributeError, KeyError) as error:
            # ParseDict raises these for some malformed values.
            raise ValueError(f"is not the JSON form of {self.name}") from error


class _Schema(GenerateJsonSchema):
    """JSON Schema 2020-12, without warnings for defaults that JSON cannot express."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}


def adapter_of(annotation: Any, name: str) -> pydantic.TypeAdapter[Any]:
    """Return pydantic's complete adapter for a type. Raise `DefinitionError` if pydantic does not support the type."""
    try:
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(annotation)
        # Without this, an unresolved forward reference would raise only at the first value.
        adapter.rebuild(raise_errors=True)
    except MemoryError:
        raise
    except BaseException as error:  # a class's __get_pydantic_core_schema__ may raise anything
        reason = text_of(error).strip().split("\n", 1)[0]
        if not isinstance(error, SCHEMA_ERRORS):
            reason = f"{type(error).__name__}: {reason}."
        raise DefinitionError(
            f"{name} cannot be recorded: {reason} Use builtins, dataclasses and pydantic models. "
            "Use a protobuf message only as a whole parameter, input or result."
        ) from error
    return adapter


def read_json(validate: Any, text: str | bytes, name: str) -> Any:
    """Return ``validate(text)``. Raise `PayloadError` if the text is not a value of the type ``name``."""
    try:
        # pydantic also accepts NaN and Infinity, which are not JSON.
        if ("NaN" in text or "Infinity" in text) if isinstance(text, str) else (b"NaN" in text or b"Infinity" in text):
            strict_json(text)
        return validate(text)
    except ValidationError as error:
        raise payload_error(name, validation_problems(error)) from error
    except (ValueError, RecursionError) as error:
        raise payload_error(name, serialization_problems(error)) from error
    except PayloadError:
        raise
    except BaseException as error:  # a validator or __post_init__ of the type may raise anything
        raise payload_error(name, foreign_problems(error)) from error


def _of(annotation: Any) -> ValueType[Any]:
    if annotation is inspect.Parameter.empty:
        return JsonType(Any)
    if annotation is None:
        return JsonType(types.NoneType)
    message, nullable = _message_in(annotation)
    return JsonType(annotation) if message is None else MessageType(message, nullable=nullable)


_of_class = functools.lru_cache(maxsize=1024)(_of)


def _message_in(annotation: Any) -> tuple[type[Message] | None, bool]:
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _message_in(annotation.__origin__)
    if origin in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not types.NoneType]
        if len(members) == 1:
            return _message_in(members[0])[0], True
    if isinstance(annotation, type) and issubclass(annotation, Message):
        return annotation, False
    return None, False
